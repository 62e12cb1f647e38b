"""Losses of several devices in one pass. Knows neither parts nor rows."""

from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from cutlayer.errors import ModelError
from cutlayer.spec import IGNORED_LABEL, Task

# logarithms of probabilities that are there at once: 64 MiB, little beside the logits of a large
# vocabulary, and enough for a processor to be busy with
_VALUES = 2**24
_MEAN = 1  # torch's number for that reduction


def group_losses(
    task: Task,
    logits: Float[Tensor, "batch *rest"],
    labels: Int[Tensor, "batch *token"],
    sizes: Sequence[int],
) -> Float[Tensor, "group"]:
    """Mean cross entropy of each device's own samples [nat], in float32.

    `sum().backward()` gives each device the gradient that it would have alone. Classification:
    logits [batch, class], labels [batch]. Language modelling: logits [batch, token, vocabulary],
    labels [batch, token] as transformers takes them: not shifted, -100 where nothing is to be
    predicted; the mean is over that device's tokens, and 0 if it has none.

    Values and gradients are those of `functional.cross_entropy` to the bit. It would hold four
    times the logits at its peak; this holds them and their gradient.
    """
    if sum(sizes) != len(labels):
        raise ModelError(f"sizes {list(sizes)} do not divide {len(labels)} labels")
    if task == "causal-lm":
        labels = next_tokens(labels)
    rows = logits.float().flatten(0, -2)
    counts = [size * labels[0].numel() for size in sizes]
    losses: Tensor = _CrossEntropy.apply(rows, labels.flatten().long(), counts)  # type: ignore[no-untyped-call]
    return losses


def next_tokens(labels: Int[Tensor, "batch token"]) -> Int[Tensor, "batch token"]:
    """What each token is to predict; moving labels instead of logits saves a copy of the larger."""
    return functional.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)


@final
class _CrossEntropy(torch.autograd.Function):
    """Each device's mean over its `counts[g]` rows, a few rows at a time."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, counts: list[int]) -> Tensor:
        ctx.save_for_backward(logits, labels)
        ctx.counts = counts
        true = torch.empty(len(labels), 1)
        for rows in _pieces(logits):
            wanted = labels[rows].clamp(min=0)[:, None]
            true[rows] = logits[rows].log_softmax(-1).gather(1, wanted)
        ignored = torch.where(labels == IGNORED_LABEL, IGNORED_LABEL, 0)
        parts = zip(torch.split(true, counts), torch.split(ignored, counts), strict=True)
        return torch.stack([_mean(own, place) for own, place in parts])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, labels = ctx.saved_tensors
        found = torch.empty_like(logits)
        parts = zip(
            gradients[0],
            *(torch.split(each, ctx.counts) for each in (logits, labels, found)),
            strict=True,
        )
        for gradient, own, wanted, into in parts:
            _write_gradient(gradient, own, wanted, into)
        return found, None, None


def _mean(true: Tensor, ignored: Tensor) -> Tensor:
    if bool((ignored == IGNORED_LABEL).all()):
        return torch.zeros(())
    return functional.nll_loss(true, ignored, ignore_index=IGNORED_LABEL)


def _write_gradient(gradient: Tensor, logits: Tensor, labels: Tensor, into: Tensor) -> None:
    """One device's, as autograd has it for `functional.cross_entropy`."""
    count = (labels != IGNORED_LABEL).sum().float()
    if not count:
        into.zero_()
        return
    ops = torch.ops.aten
    for rows in _pieces(logits):
        known = logits[rows].log_softmax(-1)
        of_known = ops.nll_loss_backward(
            gradient, known, labels[rows], None, _MEAN, IGNORED_LABEL, count
        )
        ops._log_softmax_backward_data.out(of_known, known, -1, torch.float32, out=into[rows])


def _pieces(logits: Tensor) -> Iterator[slice]:
    """A few rows at a time."""
    step = max(1, _VALUES // logits.shape[-1])
    for first in range(0, len(logits), step):
        yield slice(first, first + step)
