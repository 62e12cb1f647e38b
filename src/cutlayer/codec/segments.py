"""Which values of a padded tensor are coded: a sample's segment is its first tokens' values.

Knows nothing of how they are coded.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float32, Int64

from cutlayer.errors import PacketError


@dataclass(frozen=True)
class Segments:
    """The coded part of a `[batch, token, width]` tensor: sample i's first `lengths[i]` tokens.

    Raises PacketError: a dimension below 1, not one length per sample, or a length outside
    0..token.
    """

    shape: tuple[int, int, int]
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        batch, token, _ = self.shape
        if min(self.shape) < 1:
            raise PacketError(f"shape {self.shape}: each of batch, token, width must be at least 1")
        if len(self.lengths) != batch:
            raise PacketError(f"{len(self.lengths)} lengths for {batch} samples; give one each")
        for sample, length in enumerate(self.lengths):
            if not 0 <= length <= token:
                raise PacketError(f"length {length} of sample {sample} is not within 0..{token}")

    @classmethod
    def of(cls, shape: tuple[int, int, int], lengths: Sequence[int] | None) -> "Segments":
        """The segments of `shape`; every token counts where `lengths` is None."""
        if lengths is None:
            return cls.full(shape)
        return cls(shape, tuple(operator.index(length) for length in lengths))

    @classmethod
    def full(cls, shape: tuple[int, int, int]) -> "Segments":
        """The segments of a tensor without padding."""
        return cls(shape, (shape[1],) * max(shape[0], 0))

    @property
    def is_full(self) -> bool:
        """Whether there is no padding."""
        return all(length == self.shape[1] for length in self.lengths)

    @property
    def sizes(self) -> Int64[np.ndarray, " batch"]:
        """The number of coded values of each sample."""
        return np.array(self.lengths, dtype=np.int64) * self.shape[2]

    @property
    def total(self) -> int:
        """The number of coded values of all samples."""
        return sum(self.lengths) * self.shape[2]

    @property
    def token_mask(self) -> Bool[np.ndarray, "batch token"]:
        """True where a token counts."""
        return np.arange(self.shape[1]) < np.array(self.lengths)[:, None]

    def gather(
        self, tensor: Float32[np.ndarray, "batch token width"]
    ) -> Float32[np.ndarray, " value"]:
        """The segments one after another. Raises PacketError: a value in them is not finite."""
        values = (tensor if self.is_full else tensor[self.token_mask]).reshape(-1)
        if not np.isfinite(values).all():
            self._refuse_non_finite(tensor)
        return values

    def scatter(
        self, values: Float32[np.ndarray, " value"]
    ) -> Float32[np.ndarray, "batch token width"]:
        """The tensor with these segments and zeros in the padding: `gather` undone."""
        if self.is_full:
            return values.reshape(self.shape)
        tensor = np.zeros(self.shape, dtype=np.float32)
        tensor[self.token_mask] = values.reshape(-1, self.shape[2])
        return tensor

    def _refuse_non_finite(self, tensor: Float32[np.ndarray, "batch token width"]) -> None:
        places = np.argwhere(~np.isfinite(tensor) & self.token_mask[:, :, None])
        sample, token, column = places[0].tolist()
        raise PacketError(
            f"{len(places)} of {self.total} values are NaN or infinite, the first one at sample "
            f"{sample}, token {token}, column {column}; lower the learning rate or find their cause"
        )


def segments_of(tensor: npt.NDArray[np.generic], lengths: Sequence[int] | None) -> Segments:
    """The segments of a tensor that a caller hands in, which may be of the wrong kind.

    Raises PacketError: not float32 in native byte order, not three dimensions, or as `Segments`.
    """
    if tensor.dtype != np.float32:
        raise PacketError(f"a tensor of {tensor.dtype}; convert it to float32")
    if tensor.ndim != 3:
        raise PacketError(f"a tensor of shape {tensor.shape}; expected [batch, token, width]")
    batch, token, width = tensor.shape
    return Segments.of((batch, token, width), lengths)
