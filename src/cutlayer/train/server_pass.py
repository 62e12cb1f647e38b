"""The server part's forward and backward for the activations of a group of devices.

Knows no codec, no optimiser and no order of devices.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cutlayer.model.loss import group_losses
from cutlayer.model.split import ServerPart


@dataclass(frozen=True, eq=False)
class Passed:
    """The gradient at the cut, and each device's part of its mini-batch's mean loss [nat]."""

    gradient: Float[Tensor, "batch token width"]
    losses: tuple[float, ...]


def server_pass(
    part: ServerPart,
    rows: Float[Tensor, "group parameter"],
    sizes: Sequence[int],
    activation: Float[Tensor, "batch token width"],
    lengths: Sequence[int] | None,
    labels: Int64[Tensor, "batch *token"],
    weights: Sequence[float],
) -> Passed:
    """Forward and backward through the blocks above the cut; adds to `rows.grad`.

    `weights`: of each device's mean loss. Otherwise as `ServerPart.forward` takes them.
    """
    leaf = activation.detach().requires_grad_()
    logits = part.forward(rows, sizes, leaf, lengths)
    losses = group_losses(part.task, logits, labels, sizes)
    weighted = losses * torch.tensor(weights, dtype=losses.dtype)
    torch.autograd.backward(weighted.sum())
    assert leaf.grad is not None
    return Passed(leaf.grad, tuple(weighted.tolist()))
