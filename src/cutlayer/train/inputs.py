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


def stack(arrays: Sequence[np.ndarray], fill: int = 0) -> Tensor:
    """Concatenate along the first axis; pad the second one with `fill` to the longest."""
    if len({array.shape[1:] for array in arrays}) > 1:
        longest = max(array.shape[1] for array in arrays)
        arrays = [_padded(array, longest, fill) for array in arrays]
    return torch.from_numpy(np.concatenate(arrays))


def _padded(array: np.ndarray, longest: int, fill: int) -> np.ndarray:
    widths = [(0, 0), (0, longest - array.shape[1])] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, widths, constant_values=fill)
