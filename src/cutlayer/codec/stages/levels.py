"""The paper's quantiser: stochastic rounding to even points between a sample's extremes.

With s_min, s_max a sample's smallest and largest kept magnitude and E = `levels`, the points are

    Q_e = s_min + e (s_max - s_min) / E,    e = 0..E

(17) as printed starts at e = 1 and leaves [s_min, Q_1) without a lower point; 0 is meant. Where a
kept value is zero, s_min is zero, so that zero stays zero. Both extremes travel as the upper half
of a float32, s_min rounded down and s_max up, so that every kept value lies between them.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float32, Float64, Int64

from cutlayer.codec.kernels.arrays import Array
from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.codec.stages import estimate, halves
from cutlayer.codec.stages.quantiser import Quantised, Quantiser, Rows
from cutlayer.errors import ConfigError, PacketError

MAX_LEVELS = 255


@final
@dataclass(frozen=True)
class StochasticLevels(Quantiser):
    """Each kept value as one of `levels` + 1 points of its sample, without bias, and its sign.

    `levels` is E of eq. (17), 1..255 intervals; "q bits" there are 2^q - 1 of them, the sign not
    counted. The symbol of point e is e + 1 with the value's sign. One scale serves all columns of a
    sample, so it loses most where a few columns are much larger than the rest: raise `levels`
    there. P(e + 1) = (|s| - Q_e) / (Q_{e+1} - Q_e), to float32's precision.

    Raises ConfigError: levels out of range. Source: SFT eq. (17) and (18).
    """

    levels: int
    name: ClassVar[str] = "levels"

    def __post_init__(self) -> None:
        if not isinstance(self.levels, int) or not 1 <= self.levels <= MAX_LEVELS:
            raise ConfigError(f"levels {self.levels}: give a whole number from 1 to {MAX_LEVELS}")

    def quantise(self, rows: Rows, kernels: Kernels, rng: np.random.Generator) -> Quantised:
        values = rows.values.reshape(-1)
        kept = rows.kept
        if kept is None:
            kept = kernels.arrays.full(values.shape, 1, np.uint8)
        low, high = kernels.extremes(values, kept, rows.sizes)
        packed = halves.to_bytes(low, up=False) + halves.to_bytes(high, up=True)
        bounds = _extremes(packed, rows.sizes.size)
        seed = int(rng.integers(2**63))
        symbols = kernels.quantise_levels(values, kept, rows.sizes, bounds, self.levels, seed)
        return Quantised(symbols.reshape(rows.values.shape), bytes((self.levels,)) + packed)

    def dequantise(
        self, quantised: Quantised, sizes: Int64[np.ndarray, " batch"], kernels: Kernels
    ) -> Float32[Array, "row column"]:
        settings, symbols = quantised.settings, quantised.symbols
        if len(settings) != 1 + 4 * sizes.size or settings[0] == 0:
            raise PacketError(f"levels: {len(settings)} bytes of settings for {sizes.size} samples")
        intervals = settings[0]
        points = _points(_extremes(settings[1:], sizes.size), intervals)
        return kernels.dequantise_points(symbols.reshape(-1), sizes, points).reshape(symbols.shape)

    def settings_bytes(self, batch: int, rows: int) -> int:
        return 1 + 4 * batch

    def expected_magnitudes(self, kept: int, values: int) -> Float64[np.ndarray, " magnitude"]:
        points = estimate.level_probabilities(kept, self.levels)
        return np.append(1.0 - kept / values, points * (kept / values))


def _extremes(packed: bytes, batch: int) -> Float32[np.ndarray, "2 batch"]:
    """s_min and s_max of each sample. Raises PacketError: not 0 <= s_min <= s_max < infinity."""
    extremes = halves.from_bytes(packed).reshape(2, batch)
    low, high = extremes
    # NaN fails every comparison
    if not ((low >= 0) & (low <= high) & (high < np.inf)).all():
        raise PacketError("levels: a sample without 0 <= s_min <= s_max < infinity")
    return extremes


def _points(
    extremes: Float32[np.ndarray, "2 batch"], intervals: int
) -> Float32[np.ndarray, "batch point"]:
    """Q_0..Q_E of each sample; in this form Q_0 = s_min and Q_E = s_max exactly."""
    e = np.arange(intervals + 1)
    low, high = extremes.astype(np.float64)
    weighted = low[:, None] * (intervals - e) + high[:, None] * e
    points: Float32[np.ndarray, "batch point"] = (weighted / intervals).astype(np.float32)
    return points
