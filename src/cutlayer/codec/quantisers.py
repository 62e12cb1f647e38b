"""What a quantiser is, and the plain ones: values to small integers (symbols) and back.

Also how large a quantiser's step is: fixed, or whatever meets a goal of size or of fidelity. A
quantiser with a step to look for is in `dead_zone.py`. Knows nothing of how symbols are coded.
"""

import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float32, Float64, Int16, Int64, UInt8

from cutlayer.codec.kernels.kernels import Array, Kernels
from cutlayer.errors import ConfigError, PacketError

# how closely the first packet must meet the goal, and how many attempts it gets
CLOSE_ENOUGH = 0.03
ATTEMPTS = 10
SEARCH_GAIN = 0.7
# a later packet moves the log of the ratio by this part of what it missed by: batches differ
GAIN = 0.35
LARGEST_MOVE = math.log(4.0)
# the columns of most energy, this share of all, do not count for the scale of the others
MASSIVE_SHARE = 0.01

MAX_LEVELS = 255
_LARGEST_FLOAT8 = 448.0
_FLOAT8_SETTINGS = struct.Struct("<f")
_LARGEST_FINITE = np.uint64(0x7F7F)


@dataclass(frozen=True)
class Outcome:
    """What a packet came to: its size [bit per value], and how it would decode.

    `cosine()` is the cosine between the values and what they decode to.
    """

    bits: float
    cosine: Callable[[], float]


class StepRule(ABC):
    """Where the ratio starts, and by how much an outcome misses the goal.

    A step is `ratio` times the scale of the values at hand. A rule that has a goal measures what a
    packet came to and moves the ratio for the next one; the first packet of a stream, and one after
    a change of basis, is coded several times until it is met.
    """

    @property
    @abstractmethod
    def start(self) -> float:
        """The ratio of the first attempt."""

    @abstractmethod
    def excess(self, outcome: Outcome) -> float:
        """ln of how far beyond its goal an outcome is: above zero the step may grow."""


@final
@dataclass(frozen=True)
class RelativeStep(StepRule):
    """The same ratio always. Raises ConfigError: not above zero."""

    ratio: float

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio < math.inf:
            raise ConfigError(f"step {self.ratio}: give a number above 0, such as 1.0")

    @property
    def start(self) -> float:
        return self.ratio

    def excess(self, outcome: Outcome) -> float:
        return 0.0


FIXED_STEP = RelativeStep(1.0)


@final
@dataclass(frozen=True)
class TargetBits(StepRule):
    """The step at which packets take `bits` per value, what is shipped once not counted.

    Raises ConfigError: not within 0.001..16.
    """

    bits: float

    def __post_init__(self) -> None:
        if not 0.001 <= self.bits <= 16.0:
            raise ConfigError(f"target_bits {self.bits}: give bits per value from 0.001 to 16")

    @property
    def start(self) -> float:
        # a Laplace source at high rate: bits fall by one for each doubling
        return min(math.pow(2.0, 2.0 - self.bits), 4.0)

    def excess(self, outcome: Outcome) -> float:
        return math.log(max(outcome.bits, 1e-6) / self.bits)


@final
@dataclass(frozen=True)
class TargetCosine(StepRule):
    """The step at which the cosine between sent and decoded values is `cosine`.

    On the downlink the values are the activation's gradient, so this is the gradient's fidelity.
    Raises ConfigError: not within 0.1..0.9999.
    """

    cosine: float

    def __post_init__(self) -> None:
        if not 0.1 <= self.cosine <= 0.9999:
            raise ConfigError(f"target_cosine {self.cosine}: give a cosine from 0.1 to 0.9999")

    @property
    def start(self) -> float:
        return 1.0

    def excess(self, outcome: Outcome) -> float:
        missing = max(1.0 - outcome.cosine(), 1e-9)
        return 0.5 * math.log((1.0 - self.cosine) / missing)


def next_ratio(ratio: float, excess: float, gain: float) -> float:
    """The ratio after a packet that missed by `excess`, within what a float32 step can be."""
    move = max(-LARGEST_MOVE, min(LARGEST_MOVE, gain * excess))
    return min(max(ratio * math.exp(move), 1e-6), 1e6)


@dataclass(frozen=True, eq=False)
class Quantised:
    """The symbols, 0 where a value is dropped, and what the receiver needs to undo them.

    `block`: see `TokenRows`.
    """

    symbols: Int16[Array, "row column"]
    settings: bytes
    block: int = 1


@dataclass(frozen=True, eq=False)
class TokenRows:
    """What a quantiser is given: tokens as rows, which values count, how many each sample has.

    `kept` is None where all values count. `step_ratio` is the current step in units of the values'
    scale, for a quantiser whose rule looks for one. `block`: of the Hadamard transform that is left
    to a quantiser that `turns`; 1: none.
    """

    values: Float32[Array, "row column"]
    kept: UInt8[Array, " value"] | None
    sizes: Int64[np.ndarray, " batch"]
    step_ratio: float
    block: int = 1


class Quantiser(ABC):
    """Values to symbols and back."""

    name: ClassVar[str]

    @property
    def step_rule(self) -> StepRule:
        """How the step is found; a quantiser without one has nothing to look for."""
        return FIXED_STEP

    @property
    def turns(self) -> bool:
        """Whether it can do the Hadamard transform on the way, row by row, which spares a pass over
        memory each way."""
        return False

    @abstractmethod
    def quantise(self, rows: TokenRows, kernels: Kernels, rng: np.random.Generator) -> Quantised:
        """The symbols of all rows."""

    @abstractmethod
    def dequantise(
        self,
        quantised: Quantised,
        sizes: Int64[np.ndarray, " batch"],
        kernels: Kernels,
    ) -> Float32[Array, "row column"]:
        """The values that the symbols stand for.

        Raises PacketError: settings or symbols that `quantise` does not make.
        """

    @abstractmethod
    def settings_bytes(self, batch: int, rows: int) -> int:
        """The length [bytes] of the settings of `batch` samples of `rows` tokens in all."""

    @abstractmethod
    def expected_magnitudes(self, kept: int, values: int) -> Float64[np.ndarray, " magnitude"]:
        """How often a symbol's magnitude is 0, 1, 2, ... when `kept` of a sample's `values`
        independent Laplace values are kept."""


@final
@dataclass(frozen=True)
class Integer(Quantiser):
    """Plain uniform quantisation with a scale for each token: the baseline that everybody has.

    Multiples of each token's largest magnitude / (2^(bits-1) - 1), to the nearest; two bits give
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

    def quantise(self, rows: TokenRows, kernels: Kernels, rng: np.random.Generator) -> Quantised:
        symbols, scales = kernels.quantise_rows(rows.values, self.bits, rows.block)
        if rows.kept is not None:
            symbols *= rows.kept.reshape(symbols.shape)
        return Quantised(symbols, bytes((self.bits,)) + to_nearest_bfloat16(scales))

    def dequantise(
        self, quantised: Quantised, sizes: Int64[np.ndarray, " batch"], kernels: Kernels
    ) -> Float32[Array, "row column"]:
        settings, symbols = quantised.settings, quantised.symbols
        if len(settings) != 1 + 2 * len(symbols) or not 2 <= settings[0] <= 8:
            raise PacketError(f"integers: {len(settings)} bytes of settings, {len(symbols)} rows")
        scales = from_bfloat16(settings[1:])
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


@final
@dataclass(frozen=True)
class StochasticLevels(Quantiser):
    """Each kept value as one of `levels` + 1 points of its sample, without bias, and its sign.

    With s_min, s_max a sample's smallest and largest kept magnitude, E = `levels`, the points are

        Q_e = s_min + e (s_max - s_min) / E,    e = 0..E

    (17) as published starts at e = 1 and leaves [s_min, Q_1) without a lower point; 0 is meant.
    Where a kept value is zero, s_min is zero, so that zero stays zero. Both extremes travel as
    bfloat16, s_min rounded down and s_max up, so that every kept value lies between them.

    `levels`: 1..255 intervals; "q bits" there are 2^q - 1 of them, the sign not counted. The symbol
    of point e is e + 1 with the value's sign. One scale serves all columns of a sample, so it loses
    most where a few columns are much larger than the rest: raise `levels` there. P(e + 1) =
    (|s| - Q_e) / (Q_{e+1} - Q_e), to float32's precision.

    Raises ConfigError: levels out of range. Source: SFT eq. (17) and (18).
    """

    levels: int
    name: ClassVar[str] = "levels"

    def __post_init__(self) -> None:
        if not isinstance(self.levels, int) or not 1 <= self.levels <= MAX_LEVELS:
            raise ConfigError(f"levels {self.levels}: give a whole number from 1 to {MAX_LEVELS}")

    def quantise(self, rows: TokenRows, kernels: Kernels, rng: np.random.Generator) -> Quantised:
        values = rows.values.reshape(-1)
        kept = rows.kept
        if kept is None:
            kept = kernels.arrays.full(values.shape, 1, np.uint8)
        low, high = kernels.extremes(values, kept, rows.sizes)
        packed = to_bfloat16(low, up=False) + to_bfloat16(high, up=True)
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
        points = level_probabilities(kept, self.levels)
        return np.append(1.0 - kept / values, points * (kept / values))


def level_probabilities(kept: int, intervals: int) -> Float64[np.ndarray, " point"]:
    """How often each point is taken when `kept` Laplace values of a sample are quantised.

    Above the smallest kept magnitude they are exponential of scale 1; the largest of K lies at
    ln K + 0.577 on average, which E intervals of width d divide. Stochastic rounding weighs a point
    with a triangle: P_0 = 1 - (1 - exp(-d)) / d, P_e = exp(-e d) (exp(d) + exp(-d) - 2) / d.
    """
    span = math.log(max(kept, 1)) + float(np.euler_gamma)
    d = span / intervals
    e = np.arange(intervals + 1)
    weights: Float64[np.ndarray, " point"] = np.exp(-e * d) * (2.0 * math.cosh(d) - 2.0) / d
    weights[0] = 1.0 + math.expm1(-d) / d
    probabilities: Float64[np.ndarray, " point"] = weights / weights.sum()
    return probabilities


def _extremes(packed: bytes, batch: int) -> Float32[np.ndarray, "2 batch"]:
    """s_min and s_max of each sample. Raises PacketError: not 0 <= s_min <= s_max < infinity."""
    extremes = from_bfloat16(packed).reshape(2, batch)
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


@final
@dataclass(frozen=True)
class Float8(Quantiser):
    """Eight-bit floating point: each value to the nearest of E4M3's, the tensor's largest magnitude
    at 448. A baseline.

    A symbol is the place of the magnitude in their order, 0..126, with the value's sign.

    Source: P. Micikevicius et al., "FP8 formats for deep learning", arXiv:2209.05433 (448 is the
    largest value, 2^-9 the smallest above zero).
    """

    name: ClassVar[str] = "float8"

    def quantise(self, rows: TokenRows, kernels: Kernels, rng: np.random.Generator) -> Quantised:
        values = rows.values
        scale = np.float32(kernels.largest(values) / _LARGEST_FLOAT8)
        divisor = kernels.arrays.full((1,), float(scale) or np.inf, np.float32)
        magnitudes = abs(values) / divisor
        table = _magnitudes()
        symbols = kernels.arrays.places((table[1:] + table[:-1]) / 2, magnitudes)
        symbols[values < 0] *= -1
        if rows.kept is not None:
            symbols *= rows.kept.reshape(symbols.shape)
        return Quantised(symbols, _FLOAT8_SETTINGS.pack(scale))

    def dequantise(
        self, quantised: Quantised, sizes: Int64[np.ndarray, " batch"], kernels: Kernels
    ) -> Float32[Array, "row column"]:
        symbols, table = quantised.symbols, _magnitudes()
        if len(quantised.settings) != _FLOAT8_SETTINGS.size:
            raise PacketError(f"float8: {len(quantised.settings)} bytes of settings")
        (scale,) = _FLOAT8_SETTINGS.unpack(quantised.settings)
        if not 0.0 <= scale < np.inf:
            raise PacketError(f"float8: scale {scale}")
        points = table[None, 1:] * np.float32(scale)
        whole = np.array([sizes.sum()], dtype=np.int64)
        return kernels.dequantise_points(symbols.reshape(-1), whole, points).reshape(symbols.shape)

    def settings_bytes(self, batch: int, rows: int) -> int:
        return _FLOAT8_SETTINGS.size

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


# Scales in two bytes as bfloat16, the upper half of a float32: precise to 1 part in 128, with
# float32's range.


def to_bfloat16(values: Float32[np.ndarray, " count"], *, up: bool) -> bytes:
    """Values from 0 on, each rounded down, or up where `up`. What rounds up to infinity stays at
    the largest finite number."""
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = (bits + (0xFFFF if up else 0)) >> np.uint64(16)
    return bytes(np.minimum(rounded, _LARGEST_FINITE).astype("<u2"))


def to_nearest_bfloat16(values: Float32[np.ndarray, " count"]) -> bytes:
    """Values from 0 on, each rounded to the nearest bfloat16, ties away from zero."""
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = (bits + np.uint64(0x8000)) >> np.uint64(16)
    return bytes(np.minimum(rounded, _LARGEST_FINITE).astype("<u2"))


def from_bfloat16(data: bytes) -> Float32[np.ndarray, " count"]:
    """The values; an even number of bytes."""
    upper = np.frombuffer(data, dtype="<u2").astype(np.uint32) << np.uint32(16)
    return upper.view(np.float32)
