"""Eight-bit floating point, E4M3, with one scale for the tensor: a baseline.

Source: P. Micikevicius et al., "FP8 formats for deep learning", arXiv:2209.05433 (448 is the
largest value, 2^-9 the smallest above zero).
"""

import struct
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float32, Float64, Int64

from cutlayer.codec.kernels.arrays import Array
from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.codec.stages.quantiser import Quantised, Quantiser, Rows
from cutlayer.errors import PacketError

LARGEST = 448.0
SETTINGS = struct.Struct("<f")


@final
@dataclass(frozen=True)
class Float8(Quantiser):
    """Each value to the nearest of E4M3's, the tensor's largest magnitude at 448.

    A symbol is the place of the magnitude in their order, 0..126, with the value's sign.
    """

    name: ClassVar[str] = "float8"

    def quantise(self, rows: Rows, kernels: Kernels, rng: np.random.Generator) -> Quantised:
        values = rows.values
        scale = np.float32(kernels.largest(values) / LARGEST)
        divisor = kernels.arrays.full((1,), float(scale) or np.inf, np.float32)
        magnitudes = abs(values) / divisor
        table = _magnitudes()
        symbols = kernels.arrays.places((table[1:] + table[:-1]) / 2, magnitudes)
        symbols[values < 0] *= -1
        if rows.kept is not None:
            symbols *= rows.kept.reshape(symbols.shape)
        return Quantised(symbols, SETTINGS.pack(scale))

    def dequantise(
        self, quantised: Quantised, sizes: Int64[np.ndarray, " batch"], kernels: Kernels
    ) -> Float32[Array, "row column"]:
        symbols, table = quantised.symbols, _magnitudes()
        if len(quantised.settings) != SETTINGS.size:
            raise PacketError(f"float8: {len(quantised.settings)} bytes of settings")
        (scale,) = SETTINGS.unpack(quantised.settings)
        if not 0.0 <= scale < np.inf:
            raise PacketError(f"float8: scale {scale}")
        points = table[None, 1:] * np.float32(scale)
        whole = np.array([sizes.sum()], dtype=np.int64)
        return kernels.dequantise_points(symbols.reshape(-1), whole, points).reshape(symbols.shape)

    def settings_bytes(self, batch: int, rows: int) -> int:
        return SETTINGS.size

    def expected_magnitudes(self, kept: int, values: int) -> Float64[np.ndarray, " magnitude"]:
        magnitudes = np.full(127, kept / values / 127)
        magnitudes[0] += 1.0 - kept / values
        return magnitudes


def _magnitudes() -> Float32[np.ndarray, " place"]:
    """0, the subnormals e/512 for e = 1..7, then 1.f x 2^(e - 7) up to 448."""
    places = np.arange(127)
    exponent, fraction = places >> 3, places & 7
    normal = (1.0 + fraction / 8.0) * np.exp2(exponent - 7.0)
    return np.where(exponent == 0, fraction / 512.0, normal).astype(np.float32)
