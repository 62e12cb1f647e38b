"""A block that runs again in backward, whatever it is given and answers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cutlayer.model.adapted import checkpointed


class _Block(nn.Module):
    """Takes tensors in every way that blocks do; counts its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.slot = torch.zeros(0)
        self.runs = 0

    def forward(
        self, hidden: Tensor, scale: float, *, mask: Tensor | None, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, None]:
        self.runs += 1
        inner = (hidden @ self.slot[0]).tanh() * rotary[0] + rotary[1]
        return hidden + scale * (inner if mask is None else inner.where(mask, 0.0)), None


@contextmanager
def _using(block: _Block, slots: Mapping[str, Tensor], sizes: Sequence[int]) -> Iterator[None]:
    assert tuple(sizes) == (3,)
    outer = block.slot
    (block.slot,) = slots.values()
    try:
        yield
    finally:
        block.slot = outer


def _gradients(again: bool, mask: Tensor | None) -> tuple[list[Tensor], int]:
    """The gradients of hidden states, slot and one of the rotary tensors; and the runs."""
    generator = torch.Generator().manual_seed(0)
    hidden, cosine, sine = (torch.randn(3, 4, generator=generator) for _ in range(3))
    slot = torch.randn(1, 4, 4, generator=generator)
    leaves = [hidden.requires_grad_(), slot.requires_grad_(), sine.requires_grad_()]
    block = _Block()
    slots = {"blocks.0.slot": slot, "blocks.1.slot": torch.zeros(1)}
    with _using(block, {"blocks.0.slot": slot}, [3]):
        if again:
            with checkpointed(
                {"blocks.0": block}, slots, [3], lambda own, sizes: _using(block, own, sizes)
            ):
                output, nothing = block(hidden, 0.5, mask=mask, rotary=(cosine, sine))
        else:
            output, nothing = block(hidden, 0.5, mask=mask, rotary=(cosine, sine))
    assert nothing is None
    assert "forward" not in vars(block)
    found = torch.autograd.grad(output, leaves, torch.ones_like(output))
    assert block.slot.numel() == 0  # nothing is left of the second run
    return list(found), block.runs


def test_gradients_are_the_same_to_the_bit() -> None:
    for mask in (None, torch.tensor([[True], [False], [True]])):
        once, runs = _gradients(False, mask)
        twice, runs_again = _gradients(True, mask)
        assert (runs, runs_again) == (1, 2)
        assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def test_without_gradients_a_block_runs_once() -> None:
    block = _Block()
    slots = {"blocks.0.slot": torch.ones(1, 4, 4)}
    with (
        torch.no_grad(),
        checkpointed({"blocks.0": block}, slots, [3], lambda own, sizes: _using(block, own, sizes)),
    ):
        output, _ = block(torch.ones(3, 4), 1.0, mask=None, rotary=(torch.ones(4), torch.ones(4)))
    assert not output.requires_grad
    assert block.runs == 1
