"""Which values of a padded tensor are coded: a sample's segment is its first tokens' values.

A tensor of any number of dimensions up to four is seen as `[batch, token, width]`. Knows nothing
of how values are coded.
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped

from cutlayer.codec.kernels.kernels import Array, Arrays, Kernels
from cutlayer.errors import PacketError

MAX_DIMENSIONS = 4
# numpy's name, of native byte order, and torch's
FLOAT32 = ("float32", "torch.float32")


@dataclass(frozen=True)
class Segments:
    """The coded part of a `[batch, token, width]` tensor: sample i's first `lengths[i]` tokens.

    Raises PacketError: not one length per sample, or a length outside 0..token.
    """

    shape: tuple[int, int, int]
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        batch, token, _ = self.shape
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
    def rows(self) -> int:
        """The number of coded tokens of all samples."""
        return sum(self.lengths)

    @property
    def width(self) -> int:
        """The number of values of a token."""
        return self.shape[2]

    @property
    def total(self) -> int:
        """The number of coded values of all samples."""
        return self.rows * self.width

    @property
    def token_mask(self) -> Bool[np.ndarray, "batch token"]:
        """True where a token counts."""
        return np.arange(self.shape[1]) < np.array(self.lengths, dtype=np.int64)[:, None]

    @property
    def _places(self) -> Int64[np.ndarray, " row"]:
        """The tokens that count among all of the batch: a device need not look for them."""
        return np.flatnonzero(self.token_mask)

    def sizes(self, width: int) -> Int64[np.ndarray, " batch"]:
        """The number of values of each sample when a token has `width` of them."""
        return np.array(self.lengths, dtype=np.int64) * width

    def gather(
        self,
        tensor: Float32[Array, "batch token width"],
        kernels: Kernels,
        limit: float = math.inf,
    ) -> Float32[Array, "row width"]:
        """The coded tokens, one a row.

        Raises PacketError: a value in them is not finite, or a magnitude not below `limit`.
        """
        arrays = kernels.arrays
        chosen = tensor
        if not self.is_full:
            chosen = tensor.reshape(-1, self.width)[arrays.of(self._places)]
        values = arrays.of(chosen).reshape(self.rows, self.width)
        largest = kernels.largest(values)
        if not math.isfinite(largest):
            self._refuse_non_finite(arrays.to_host(tensor))
        if largest >= limit:
            raise PacketError(
                f"a value of magnitude {largest:.3g}: this codec takes magnitudes below "
                f"{limit:.3g}; codec none takes any"
            )
        return values

    def scatter(
        self, values: Float32[Array, "row width"], arrays: Arrays
    ) -> Float32[Array, "batch token width"]:
        """The tensor with these tokens and zeros in the padding: `gather` undone."""
        if self.is_full:
            return values.reshape(self.shape)
        batch, token, width = self.shape
        tensor = arrays.full((batch * token, width), 0.0, np.float32)
        tensor[arrays.of(self._places)] = values
        return tensor.reshape(self.shape)

    def zero_padding(
        self, tensor: Float32[np.ndarray, "batch token width"]
    ) -> Float32[np.ndarray, "batch token width"]:
        """A copy with zeros in the padding, which may have held anything."""
        return np.where(self.token_mask[:, :, None], tensor, np.float32(0))

    def _refuse_non_finite(self, tensor: Float32[np.ndarray, "batch token width"]) -> None:
        places = np.argwhere(~np.isfinite(tensor) & self.token_mask[:, :, None])
        sample, token, column = places[0].tolist()
        raise PacketError(
            f"{len(places)} of {self.total} values are NaN or infinite, the first one at sample "
            f"{sample}, token {token}, column {column}; a codec takes finite values"
        )


def segments_of(tensor: Shaped[Array, "..."], lengths: Sequence[int] | None) -> Segments:
    """The segments of a tensor that a caller hands in, which may be of the wrong kind.

    Raises PacketError: not float32 in native byte order, more than four dimensions, lengths for a
    tensor that has no batch and tokens, or as `Segments`.
    """
    if str(tensor.dtype) not in FLOAT32:
        raise PacketError(f"a tensor of {tensor.dtype}; convert it to float32")
    if lengths is not None and tensor.ndim != 3:
        raise PacketError(
            f"lengths for a tensor of shape {tensor.shape}; expected [batch, token, width]"
        )
    return Segments.of(seen_as_tokens(tensor.shape), lengths)


def seen_as_tokens(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """`shape` as [batch, token, width]: width is the last dimension, batch the first of three or
    four. Raises PacketError: more than four dimensions."""
    if len(shape) > MAX_DIMENSIONS:
        raise PacketError(
            f"a tensor of shape {shape}: at most {MAX_DIMENSIONS} dimensions; reshape it"
        )
    if len(shape) < 3:
        batch, token, width = (1, 1, 1, *shape)[-3:]
        return batch, token, width
    return shape[0], math.prod(shape[1:-1]), shape[-1]
