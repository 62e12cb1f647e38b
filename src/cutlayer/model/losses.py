"""The losses of the tasks, and their gradients: a mean over each device's own samples or tokens.

Knows logits and labels alone, no model.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from cutlayer.errors import ModelError
from cutlayer.spec import IGNORED_LABEL, Task

# logarithms of probabilities that are there at once: 8 MiB, little beside the logits of a large
# vocabulary, and enough for a processor to be busy with
_VALUES = 2**21
_MEAN = 1  # torch's number for that reduction


def group_losses(
    task: Task,
    logits: Float[Tensor, "batch *rest"],
    labels: Int[Tensor, "batch *token"],
    sizes: Sequence[int],
    smoothing: float = 0.0,
) -> Float[Tensor, "group"]:
    """Mean cross entropy of each device's own samples [nat], in float32.

    `sum().backward()` gives each device the gradient that it would have alone. Classification:
    logits [batch, class], labels [batch]. Language modelling: logits [batch, token, vocabulary],
    labels [batch, token] as transformers takes them: not shifted, -100 where nothing is to be
    predicted; the mean is over that device's tokens, and 0 if it has none. `smoothing`: the part of
    each label that is spread evenly over all classes, in [0, 1].

    Values and gradients are those of `functional.cross_entropy` to the bit (with smoothing but for
    rounding). It would hold four times the logits at its peak; this holds them and their gradient.
    Source of smoothing: arXiv 1512.00567, section 7.
    """
    if sum(sizes) != len(labels):
        raise ModelError(f"sizes {list(sizes)} do not divide {len(labels)} labels")
    if task == "causal-lm":
        labels = next_tokens(labels)
    rows = logits.float().flatten(0, -2)
    counts = [size * labels[0].numel() for size in sizes]
    losses: Tensor = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        rows, labels.flatten().long(), counts, smoothing
    )
    return losses


def head_losses(
    hidden: Float[Tensor, "batch token width"],
    labels: Int[Tensor, "batch token"],
    sizes: Sequence[int],
    weights: Sequence[float],
    head: Callable[[Tensor], Tensor],
    most: int,
    smoothing: float = 0.0,
) -> Float[Tensor, "group"]:
    """`group_losses` of a language model, each times its weight, from what its head is given.

    `head`: from hidden states [token, width] to logits [token, vocabulary]; nothing in it is
    trained. It runs on `most` tokens at a time, and its backward at once, so that of all logits
    there are never more; what is kept for backward is the gradient of `hidden`. Equal to
    `weights * group_losses(...)` and its gradient but for rounding: products have other sizes.
    Source: the fused linear cross entropy of Liger Kernel (arXiv:2410.10989), without its kernels.
    """
    if sum(sizes) != len(labels):
        raise ModelError(f"sizes {list(sizes)} do not divide {len(labels)} labels")
    wanted = next_tokens(labels).flatten().long()
    counts = [size * labels.shape[1] for size in sizes]
    losses: Tensor = _HeadCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden.flatten(0, 1), wanted, counts, weights, head, most, smoothing
    )
    return losses


def next_tokens(labels: Int[Tensor, "batch token"]) -> Int[Tensor, "batch token"]:
    """What each token is to predict; moving labels instead of logits saves a copy of the larger."""
    return functional.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)


@final
class _CrossEntropy(torch.autograd.Function):
    """Each device's mean over its `counts[g]` rows, a few rows at a time."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, counts: list[int], smoothing: float
    ) -> Tensor:
        ctx.save_for_backward(logits, labels)
        ctx.counts, ctx.smoothing = counts, smoothing
        true = logits.new_empty(len(labels), 1)
        for rows in _pieces(logits):
            wanted = labels[rows].clamp(min=0)[:, None]
            known = logits[rows].log_softmax(-1)
            true[rows] = _smoothed(known.gather(1, wanted), known, smoothing)
        ignored = torch.where(labels == IGNORED_LABEL, IGNORED_LABEL, 0)
        parts = zip(torch.split(true, counts), torch.split(ignored, counts), strict=True)
        return torch.stack([_mean(own, place) for own, place in parts])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        logits, labels = ctx.saved_tensors
        found = torch.empty_like(logits)
        parts = zip(
            gradients[0],
            *(torch.split(each, ctx.counts) for each in (logits, labels, found)),
            strict=True,
        )
        for gradient, own, wanted, into in parts:
            _write_gradient(gradient, own, wanted, into, ctx.smoothing)
        return found, None, None, None


@final
class _HeadCrossEntropy(torch.autograd.Function):
    """Each device's weighted mean over its `counts[g]` rows, with the gradient of what the head is
    given, piece by piece."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        labels: Tensor,
        counts: list[int],
        weights: Sequence[float],
        head: Callable[[Tensor], Tensor],
        most: int,
        smoothing: float,
    ) -> Tensor:
        known = labels != IGNORED_LABEL
        counted = [own.sum().clamp(min=1) for own in torch.split(known, counts)]
        shares = known * torch.cat(
            [
                (weight / own).expand(count)
                for weight, own, count in zip(weights, counted, counts, strict=True)
            ]
        )
        true = hidden.new_empty(len(labels), dtype=torch.float32)
        found = torch.empty_like(hidden)
        for rows in _even_pieces(len(labels), most):
            given = hidden[rows].detach().requires_grad_()
            with torch.enable_grad():
                logits = head(given)
            wanted = labels[rows].clamp(min=0)[:, None]
            of_logits = logits.detach().float().log_softmax(-1)
            true[rows] = _smoothed(of_logits.gather(1, wanted), of_logits, smoothing)[:, 0]
            own = shares[rows, None]
            of_logits.exp_().mul_(own).scatter_add_(1, wanted, -(1.0 - smoothing) * own)
            if smoothing:
                of_logits.sub_(own, alpha=smoothing / of_logits.shape[1])
            torch.autograd.backward(logits, of_logits.to(logits.dtype))
            del logits, of_logits  # before the next ones are there
            assert given.grad is not None
            found[rows] = given.grad
        ctx.save_for_backward(found)
        ctx.counts = counts
        return torch.stack([-own.sum() for own in torch.split(true * shares, counts)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (found,) = ctx.saved_tensors
        parts = torch.split(found, ctx.counts)
        scaled = [own * gradient for own, gradient in zip(parts, gradients[0], strict=True)]
        return torch.cat(scaled), None, None, None, None, None, None


def _even_pieces(count: int, most: int) -> Iterator[slice]:
    """As few as there can be of at most so many, of nearly one size: the last is no small one."""
    pieces = -(-count // most)
    for number in range(pieces):
        yield slice(number * count // pieces, (number + 1) * count // pieces)


def _mean(true: Tensor, ignored: Tensor) -> Tensor:
    """0 where there is none, which the host need not know."""
    mean = functional.nll_loss(true, ignored, ignore_index=IGNORED_LABEL)
    return torch.where((ignored == IGNORED_LABEL).all(), 0.0, mean)


def _smoothed(true: Tensor, known: Tensor, smoothing: float) -> Tensor:
    """The logarithm that a row's loss is made of: of its label's probability, and of all."""
    if not smoothing:
        return true
    return (1.0 - smoothing) * true + smoothing * known.mean(-1, keepdim=True)


def _write_gradient(
    gradient: Tensor, logits: Tensor, labels: Tensor, into: Tensor, smoothing: float
) -> None:
    """One device's, as autograd has it for `functional.cross_entropy`; 0 where nothing counts."""
    count = (labels != IGNORED_LABEL).sum().float()
    ops = torch.ops.aten
    for rows in _pieces(logits):
        known = logits[rows].log_softmax(-1)
        of_known = ops.nll_loss_backward(
            gradient, known, labels[rows], None, _MEAN, IGNORED_LABEL, count
        )
        if smoothing:
            spread = gradient / count.clamp(min=1) * (labels[rows] != IGNORED_LABEL)
            of_known.mul_(1.0 - smoothing)
            of_known.sub_(spread[:, None], alpha=smoothing / logits.shape[-1])
        ops._log_softmax_backward_data.out(of_known, known, -1, torch.float32, out=into[rows])


def _pieces(logits: Tensor) -> Iterator[slice]:
    """A few rows at a time."""
    step = max(1, _VALUES // logits.shape[-1])
    for first in range(0, len(logits), step):
        yield slice(first, first + step)
