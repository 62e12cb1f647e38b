"""The Walsh-Hadamard transform: spreads what is large in one column over many.

Costs little and needs no statistics, but leaves nothing small either: for plain quantisers, not
for those that live on zeros.
"""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float32

from cutlayer.codec.kernels.arrays import Array
from cutlayer.codec.kernels.kernels import Kernels

LARGEST_BLOCK = 256


@final
@dataclass(frozen=True)
class Hadamard:
    """Random signs, then the transform of each run of up to 256 columns, a power of two that
    divides the width. Orthonormal."""

    def forward(
        self, values: Float32[Array, "row column"], kernels: Kernels
    ) -> Float32[Array, "row column"]:
        """The transformed rows."""
        return kernels.hadamard(values, block_of(values.shape[1]), inverse=False)

    def inverse(
        self, values: Float32[Array, "row column"], kernels: Kernels
    ) -> Float32[Array, "row column"]:
        """`forward` undone, to float32's precision."""
        return kernels.hadamard(values, block_of(values.shape[1]), inverse=True)


def block_of(width: int) -> int:
    """The largest power of two up to 256 that divides `width`."""
    return min(LARGEST_BLOCK, width & -width) if width else 1
