"""Losses of several devices in one pass. Knows neither parts nor rows."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from cutlayer.errors import ModelError
from cutlayer.spec import IGNORED_LABEL, Task


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
    """
    if sum(sizes) != len(labels):
        raise ModelError(f"sizes {list(sizes)} do not divide {len(labels)} labels")
    if task == "causal-lm":
        # moving the labels instead of the logits saves a copy of the larger
        labels = functional.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)
    parts = zip(torch.split(logits, list(sizes)), torch.split(labels, list(sizes)), strict=True)
    return torch.stack([_loss(part, own) for part, own in parts])


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    logits, labels = logits.float().flatten(0, -2), labels.flatten()
    if not bool((labels != IGNORED_LABEL).any()):
        return logits.sum() * 0.0
    return functional.cross_entropy(logits, labels.long(), ignore_index=IGNORED_LABEL)
