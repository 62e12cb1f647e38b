"""Stochastic quantisation of kept magnitudes between each sample's smallest and largest one.

With s_min, s_max a sample's smallest and largest kept magnitude and E = `intervals`, the points are

    Q_e = s_min + e (s_max - s_min) / E,    e = 0..E

(17) as printed starts at e = 1 and leaves [s_min, Q_1) without a lower point; 0 is meant. Where a
kept value is zero, s_min is zero, so that zero stays zero. Knows magnitudes only; signs are coded
apart. `counts[i]` consecutive entries belong to sample i.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int, UInt8

from cutlayer.errors import PacketError


@dataclass(frozen=True, eq=False)
class Scales:
    """s_min and s_max of each sample; zeros for a sample that keeps nothing."""

    low: Float32[np.ndarray, " batch"]
    high: Float32[np.ndarray, " batch"]

    def to_bytes(self) -> bytes:
        """All s_min, then all s_max, as little-endian float32."""
        return self.low.astype("<f4").tobytes() + self.high.astype("<f4").tobytes()


def scales_of(
    magnitudes: Float32[np.ndarray, " kept"], counts: Int[np.ndarray, " batch"]
) -> Scales:
    """The scales of each sample's entries."""
    low = np.zeros(counts.size, dtype=np.float32)
    high = np.zeros(counts.size, dtype=np.float32)
    some = counts > 0
    if some.any():
        starts = (np.cumsum(counts) - counts)[some]
        low[some] = np.minimum.reduceat(magnitudes, starts)
        high[some] = np.maximum.reduceat(magnitudes, starts)
    return Scales(low, high)


def scales_from_bytes(data: bytes, batch: int) -> Scales:
    """`Scales.to_bytes` undone. Raises PacketError: wrong length, not 0 <= s_min <= s_max < inf."""
    if len(data) != 8 * batch:
        raise PacketError(f"scales: {len(data)} bytes, expected {8 * batch}")
    low, high = np.frombuffer(data, dtype="<f4").astype(np.float32).reshape(2, batch)
    # NaN fails every comparison
    if not ((low >= 0) & (low <= high) & (high < np.inf)).all():
        raise PacketError("scales: a sample without 0 <= s_min <= s_max < infinity")
    return Scales(low, high)


def quantise(
    magnitudes: Float32[np.ndarray, " kept"],
    counts: Int[np.ndarray, " batch"],
    scales: Scales,
    intervals: int,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, " kept"]:
    """The index e of each entry's point: one of its two neighbours, on average its magnitude.

    P(e + 1) = (|s| - Q_e) / (Q_{e+1} - Q_e), to float32's precision. Source: SFT eq. (18).
    """
    # guard s_max == s_min: every entry is Q_0 then
    spans = np.where(scales.high > scales.low, scales.high - scales.low, np.float32(1))
    offset = magnitudes - np.repeat(scales.low, counts)
    # divided first: the quotient is in 0..1 even where the span is subnormal
    place = offset / np.repeat(spans, counts) * np.float32(intervals)
    below = np.floor(place)
    up = rng.random(magnitudes.size, dtype=np.float32) < place - below
    levels: UInt8[np.ndarray, " kept"] = below.astype(np.uint8) + up
    return levels


def dequantise(
    levels: UInt8[np.ndarray, " kept"],
    counts: Int[np.ndarray, " batch"],
    scales: Scales,
    intervals: int,
) -> Float32[np.ndarray, " kept"]:
    """Q_e of each entry."""
    points = _points(scales, intervals).astype(np.float32)
    samples = np.repeat(np.arange(counts.size), counts)
    values: Float32[np.ndarray, " kept"] = points[samples, levels]
    return values


def _points(scales: Scales, intervals: int) -> Float64[np.ndarray, "batch point"]:
    """Q_0..Q_E of each sample; in this form Q_0 = s_min and Q_E = s_max exactly."""
    e = np.arange(intervals + 1)
    low, high = scales.low.astype(np.float64), scales.high.astype(np.float64)
    weighted: Float64[np.ndarray, "batch point"] = (
        low[:, None] * (intervals - e) + high[:, None] * e
    )
    return weighted / intervals
