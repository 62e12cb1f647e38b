"""Plain uniform quantisation to `bits` per value, with a scale for each token.

The baseline that everybody has: int8, int4, int2.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float32, Float64, Int64

from cutlayer.codec.kernels.arrays import Array
from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.codec.stages import halves
from cutlayer.codec.stages.quantiser import Quantised, Quantiser, Rows
from cutlayer.errors import ConfigError, PacketError


@final
@dataclass(frozen=True)
class Integer(Quantiser):
    """Multiples of each token's largest magnitude / (2^(bits-1) - 1), to the nearest; two bits give
    four levels at +-1/4 and +-3/4 of it. Prefer it on fast links, after a Hadamard transform.

    Raises ConfigError: bits not within 2..8.
    """

    bits: int
    name: ClassVar[str] = "int"

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not 2 <= self.bits <= 8:
            raise ConfigError(f"bits {self.bits}: give a whole number from 2 to 8")

    @property
    def turns(self) -> bool:
        return True

    def quantise(self, rows: Rows, kernels: Kernels, rng: np.random.Generator) -> Quantised:
        symbols, scales = kernels.quantise_rows(rows.values, self.bits, rows.block)
        if rows.kept is not None:
            symbols *= rows.kept.reshape(symbols.shape)
        return Quantised(symbols, bytes((self.bits,)) + halves.nearest_to_bytes(scales))

    def dequantise(
        self, quantised: Quantised, sizes: Int64[np.ndarray, " batch"], kernels: Kernels
    ) -> Float32[Array, "row column"]:
        settings, symbols = quantised.settings, quantised.symbols
        if len(settings) != 1 + 2 * len(symbols) or not 2 <= settings[0] <= 8:
            raise PacketError(f"integers: {len(settings)} bytes of settings, {len(symbols)} rows")
        scales = halves.from_bytes(settings[1:])
        if not ((scales >= 0) & (scales < np.inf)).all():
            raise PacketError("integers: a row without 0 <= scale < infinity")
        return kernels.dequantise_rows(symbols, scales, settings[0], quantised.block)

    def settings_bytes(self, batch: int, rows: int) -> int:
        return 1 + 2 * rows

    def expected_magnitudes(self, kept: int, values: int) -> Float64[np.ndarray, " magnitude"]:
        # even over the magnitudes there are, which is the most that they can cost
        share = kept / values
        if self.bits == 2:
            return np.array([1.0 - share, share / 2, share / 2])
        magnitudes = np.full(1 << self.bits - 1, share / (1 << self.bits - 1))
        magnitudes[0] += 1.0 - share
        return magnitudes
