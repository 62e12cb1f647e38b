"""A device's forward now, its backward when the gradient has come: and what is held in between.

Every way to hold gives the same gradient; they trade bytes for a second forward. Knows no codec, no
optimiser and no order of micro-batches: any number may be pending at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from cutlayer.errors import ModelError
from cutlayer.model.memory import SavedBytes
from cutlayer.model.split import DevicePart
from cutlayer.spec import Holding


@final
class Pending:
    """A mini-batch, or micro-batch, whose gradient has not come yet.

    `shape`: of the activation, [batch, token, width]; known after it was released too.
    """

    def __init__(
        self, activation: Float[Tensor, "batch token width"], backward: Callable[[Tensor], None]
    ) -> None:
        self._activation: Tensor | None = activation.detach().float()
        self._dtype = activation.dtype
        self.shape = activation.shape
        self._backward: Callable[[Tensor], None] | None = backward

    @property
    def activation(self) -> Float32[Tensor, "batch token width"]:
        """The activation at the cut, without a graph. Raises RuntimeError once it is released."""
        if self._activation is None:
            raise RuntimeError("the activation was released; read it before that")
        return self._activation

    def release(self) -> None:
        """Drop the activation, when it has been encoded: backward does not need it."""
        self._activation = None

    def backward(self, gradient: Float[Tensor, "batch token width"]) -> None:
        """Add the adapters' gradient to `rows.grad`, given that of the activation.

        Raises RuntimeError if it was called before, or if rows or inputs were changed in place
        since the forward.
        """
        if self._backward is None:
            raise RuntimeError("this micro-batch has had its backward; run its forward again")
        backward, self._backward = self._backward, None
        backward(gradient.to(self._dtype))


def hold(
    part: DevicePart,
    rows: Float32[Tensor, "group parameter"],
    sizes: Sequence[int],
    inputs: Mapping[str, Tensor],
    holding: Holding,
) -> Pending:
    """Run a device part, for rows, sizes and inputs as `DevicePart.forward` takes them.

    `rows`: a leaf that requires a gradient; it collects that of every micro-batch run with it, and
    must not change until the last one's backward. `holding`, what is kept until backward:

    - KEEP: all that autograd saves. The least computation.
    - CHECKPOINT: the input of each block; backward runs each block again and holds one at a time.
    - RECOMPUTE: nothing but `inputs`; backward runs the whole part again and holds all of it.

    Raises ModelError for rows, inputs or sizes that do not fit.
    """
    if not (rows.requires_grad and rows.is_leaf):
        raise ModelError(
            "the rows are no leaf that requires a gradient; give rows.requires_grad_(), or call "
            "the part's own forward if nothing is to be trained"
        )
    if holding is Holding.RECOMPUTE:
        return _recomputed(part, rows, sizes, inputs)
    checkpoint = holding is Holding.CHECKPOINT
    return _kept(part.forward(rows, sizes, inputs, checkpoint=checkpoint), rows)


@dataclass(frozen=True)
class HeldBytes:
    """What one micro-batch makes a device hold beyond weights, rows and inputs [bytes].

    `waiting`: from forward to backward. `peak`: the most at any time. So of n equal ones in flight
    the peak is `(n - 1) waiting + peak`. The activation on its way to the server is not among them.
    """

    waiting: int
    peak: int

    def in_flight(self, micro_batches: int) -> int:
        """The peak with so many equal micro-batches pending at once."""
        return (micro_batches - 1) * self.waiting + self.peak


def measure(
    part: DevicePart,
    rows: Float32[Tensor, "group parameter"],
    sizes: Sequence[int],
    inputs: Mapping[str, Tensor],
    holding: Holding,
) -> HeldBytes:
    """Run one micro-batch forward and backward and count what autograd holds; `rows` stay as they
    are. Raises what `hold` raises."""
    leaf = rows.detach().clone().requires_grad_()
    excluded = [*part.adapted.tensors, leaf, *inputs.values()]
    with SavedBytes(excluded) as saved:
        pending = hold(part, leaf, sizes, inputs, holding)
        waiting = saved.bytes
        pending.backward(torch.zeros(pending.shape))
    return HeldBytes(waiting, saved.peak)


def _kept(activation: Tensor, rows: Tensor) -> Pending:
    # the place in the graph and not the activation, whose bytes backward does not need
    edge = get_gradient_edge(activation)
    return Pending(activation, lambda gradient: _accumulate(edge, rows, gradient))


def _recomputed(
    part: DevicePart, rows: Tensor, sizes: Sequence[int], inputs: Mapping[str, Tensor]
) -> Pending:
    with torch.no_grad():
        activation = part.forward(rows, sizes, inputs)
    read = (rows, *inputs.values())
    versions = [tensor._version for tensor in read]

    def backward(gradient: Tensor) -> None:
        # autograd sees to this where it holds the tensors itself
        if versions != [tensor._version for tensor in read]:
            raise RuntimeError("rows or inputs were changed in place between forward and backward")
        _accumulate(get_gradient_edge(part.forward(rows, sizes, inputs)), rows, gradient)

    return Pending(activation, backward)


def _accumulate(edge: torch.autograd.graph.GradientEdge, rows: Tensor, gradient: Tensor) -> None:
    (found,) = torch.autograd.grad(edge, rows, gradient)
    rows.grad = found if rows.grad is None else rows.grad.add_(found)
