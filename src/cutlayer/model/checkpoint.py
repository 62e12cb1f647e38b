"""Blocks that hold only their inputs for backward, and run again when it comes.

Our own and not `torch.utils.checkpoint`, for two reasons. A block reads the devices' rows, which
are there during a forward only, so running again must bring them back. And what the second run
saves passes the saved-tensor hooks in force like any other, so that it can be measured. Knows no
model and no cut.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

# makes the layers of a part read these slots, each [group, *shape], for so many samples a device
Using = Callable[[Mapping[str, Tensor], Sequence[int]], AbstractContextManager[None]]


@contextmanager
def checkpointed(
    blocks: Mapping[str, nn.Module], slots: Mapping[str, Tensor], sizes: Sequence[int], using: Using
) -> Generator[None]:
    """Make these blocks, by path, hold only their inputs, for the length of a forward.

    `slots`, `sizes`: what the layers read in this forward; `using` makes them read it again.
    Backward costs the blocks one more forward, and gives the same gradients to the bit: the same
    operations run on the same values. They must draw no random numbers (no dropout).
    """
    for path, block in blocks.items():
        own = {name: slot for name, slot in slots.items() if name.startswith(f"{path}.")}
        block.__dict__["forward"] = _TwiceRun(block.forward, own, tuple(sizes), using)
    try:
        yield
    finally:
        for block in blocks.values():
            del block.__dict__["forward"]


@final
class _TwiceRun:
    """A block's forward as one node of the graph."""

    def __init__(
        self,
        forward: Callable[..., Any],
        slots: Mapping[str, Tensor],
        sizes: Sequence[int],
        using: Using,
    ) -> None:
        self._forward = forward
        self._slots = slots
        self._sizes = sizes
        self._using = using

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        values, structure = tree_flatten((args, kwargs))
        places = [place for place, value in enumerate(values) if isinstance(value, Tensor)]
        # tensors are kept by autograd, not here: counted there, and freed with the graph
        others = [None if isinstance(value, Tensor) else value for value in values]
        names, forward, sizes, using = tuple(self._slots), self._forward, self._sizes, self._using

        def run(tensors: Sequence[Tensor]) -> Any:
            slots, given = tensors[: len(names)], tensors[len(names) :]
            filled = list(others)
            for place, tensor in zip(places, given, strict=True):
                filled[place] = tensor
            again, named = tree_unflatten(filled, structure)
            with using(dict(zip(names, slots, strict=True)), sizes):
                return forward(*again, **named)

        given = [values[place] for place in places]
        return _Node.apply(run, *self._slots.values(), *given)  # type: ignore[no-untyped-call]


@final
class _Node(torch.autograd.Function):
    """`run(tensors)`, without a graph in forward and with one in backward."""

    @staticmethod
    def forward(ctx: Any, run: Callable[[Sequence[Tensor]], Any], *tensors: Tensor) -> Any:
        ctx.run = run
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return run(tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        leaves = [
            tensor.detach().requires_grad_(need)
            for tensor, need in zip(ctx.saved_tensors, needed, strict=True)
        ]
        with torch.enable_grad():
            outputs = ctx.run(leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        known = [place for place, gradient in enumerate(gradients) if gradient is not None]
        # not `autograd.grad`, which torch's FLOP counter cannot watch
        torch.autograd.backward(
            [outputs[place] for place in known], [gradients[place] for place in known]
        )
        return None, *(leaf.grad for leaf in leaves)
