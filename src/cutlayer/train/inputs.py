"""Batches of one or several devices as the tensors of one forward pass.

Text of different lengths is padded on the right to the group's longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cutlayer.data.batches import Batch


@dataclass(frozen=True)
class GroupInputs:
    """The rows of several devices in device order: `sizes[g]` samples of the g-th."""

    inputs: dict[str, Tensor]
    lengths: tuple[int, ...] | None
    sizes: tuple[int, ...]


def group_inputs(batches: Sequence[Batch]) -> GroupInputs:
    """The devices' batches one below the other."""
    known = [batch.lengths for batch in batches if batch.lengths is not None]
    return GroupInputs(
        inputs={
            name: stack([batch.inputs[name] for batch in batches]) for name in batches[0].inputs
        },
        lengths=tuple(length for lengths in known for length in lengths) if known else None,
        sizes=tuple(len(batch.labels) for batch in batches),
    )


def stack(arrays: Sequence[np.ndarray | Tensor], fill: int = 0) -> Tensor:
    """Concatenate along the first axis; pad the second one with `fill` to the longest."""
    tensors = [torch.as_tensor(array) for array in arrays]
    if len({tensor.shape[1:] for tensor in tensors}) > 1:
        longest = max(tensor.shape[1] for tensor in tensors)
        tensors = [_padded(tensor, longest, fill) for tensor in tensors]
    return torch.cat(tensors)


def _padded(tensor: Tensor, longest: int, fill: int) -> Tensor:
    # torch counts from the last axis
    after = [0, 0] * (tensor.ndim - 2) + [0, longest - tensor.shape[1]]
    return torch.nn.functional.pad(tensor, after, value=fill)
