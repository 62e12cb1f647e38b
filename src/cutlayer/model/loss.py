"""Losses of several devices in one pass."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from cutlayer.model.tasks import Task


def group_losses(
    task: Task,
    logits: Float[Tensor, "batch *rest"],
    labels: Int[Tensor, "batch *token"],
    sizes: Sequence[int],
) -> Float[Tensor, "group"]:
    """Mean cross entropy of each device's own samples [nat]: `sum().backward()` gives each device
    the gradient it would have alone. Language modelling: labels [batch, token] unshifted as in
    transformers, -100 ignored, mean over that device's tokens."""
    raise NotImplementedError
