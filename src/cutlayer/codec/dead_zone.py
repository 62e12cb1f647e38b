"""A uniform quantiser with a dead zone: small values become zero, which an entropy coder loves.

    q = sign(x) floor(|x| / step + rounding),    x' = sign(q) (|q| + shift) step

`shift` is where the values of a cell lie on average, one number for |q| = 1 and one for the rest,
measured by the sender. Knows nothing of how symbols are coded.

At few bits most values become zero, and what is decoded has less energy than what was sent: a
network's norms meet activations as no sample has them. `keeps_energy` makes both shifts larger by
as much as gives the energy back: the mean squared error grows, and the gradients of what is
computed from the values come nearer to the true ones (docs/codec.md).

Source: G. J. Sullivan, "Efficient scalar quantization of exponential and Laplacian random
variables", IEEE Trans. Inf. Theory 42(5), 1996.
"""

import math
import struct
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float32, Float64, Int16, Int64

from cutlayer.codec.entropy import signed_entropy
from cutlayer.codec.kernels.kernels import Array, Kernels, Moments
from cutlayer.codec.quantisers import (
    MASSIVE_SHARE,
    Quantised,
    Quantiser,
    StepRule,
    TargetBits,
    TokenRows,
)
from cutlayer.errors import ConfigError, PacketError

SETTINGS = struct.Struct("<fee")
LARGEST_SYMBOL = 32767
SMALLEST_STEP = np.float32(2.0**-100)
# so many rows tell how much energy is missing
ENERGY_ROWS = 1024
# of a packet
MOST_SHIFT = 1.0


@final
@dataclass(frozen=True)
class DeadZone(Quantiser):
    """Multiples of a step; with `rounding` 1/2 it is the plain uniform quantiser.

    `rule` finds the step, in units of the root mean square of the values without the hundredth of
    columns that have most energy: in some models one channel is a hundred times the others, and a
    step in proportion to it would drop all else. A symbol never exceeds 32767: the step grows
    instead. `keeps_energy`: see the module; for activations, whose scale norms divide by.

    Raises ConfigError: rounding not within (0, 0.5].
    """

    rule: StepRule
    rounding: float = 0.35
    keeps_energy: bool = False
    name: ClassVar[str] = "dead-zone"

    def __post_init__(self) -> None:
        if not 0.0 < self.rounding <= 0.5:
            raise ConfigError(f"rounding {self.rounding}: give a number above 0, at most 0.5")

    @property
    def step_rule(self) -> StepRule:
        return self.rule

    def quantise(self, rows: TokenRows, kernels: Kernels, rng: np.random.Generator) -> Quantised:
        values = rows.values
        if rows.kept is not None:
            values = values * rows.kept.reshape(values.shape)
        # asked once: on a device the host waits for it
        most = kernels.largest(values)
        largest, scale = np.float32(most), robust_scale(values, most, kernels)
        step = max(np.float32(rows.step_ratio * scale), SMALLEST_STEP)
        rounding = np.float32(self.rounding)
        if _largest_symbol(largest, step, rounding) == LARGEST_SYMBOL:
            step = np.float32(float(largest) / (LARGEST_SYMBOL - 1))
        symbols, moments = kernels.quantise_dead_zone(values.reshape(-1), step, rounding)
        symbols = symbols.reshape(values.shape)
        one, more = _shifts(moments)
        if self.keeps_energy and most:
            missing = _missing_shift(values, symbols, float(step), (one, more), kernels)
            one, more = min(one + missing, MOST_SHIFT), min(more + missing, MOST_SHIFT)
        return Quantised(symbols, SETTINGS.pack(step, one, more))

    def dequantise(
        self, quantised: Quantised, sizes: Int64[np.ndarray, " batch"], kernels: Kernels
    ) -> Float32[Array, "row column"]:
        if len(quantised.settings) != SETTINGS.size:
            raise PacketError(f"dead zone: {len(quantised.settings)} bytes of settings")
        step, one, more = SETTINGS.unpack(quantised.settings)
        if not (
            0.0 < step < math.inf
            and -MOST_SHIFT <= one <= MOST_SHIFT
            and -MOST_SHIFT <= more <= MOST_SHIFT
        ):
            raise PacketError(f"dead zone: step {step}, shifts {one} and {more}")
        symbols = quantised.symbols
        values = kernels.dequantise_dead_zone(
            symbols.reshape(-1), np.float32(step), np.float32(one), np.float32(more)
        )
        return values.reshape(symbols.shape)

    def settings_bytes(self, batch: int, rows: int) -> int:
        return SETTINGS.size

    def expected_magnitudes(self, kept: int, values: int) -> Float64[np.ndarray, " magnitude"]:
        step = self.rule.start
        if isinstance(self.rule, TargetBits):
            step = dead_zone_step(self.rule.bits, self.rounding)
        magnitudes = dead_zone_probabilities(step, self.rounding)
        # the kept ones are the largest, so zeros are the first to go
        excess = max(0.0, float(magnitudes[1:].sum()) - kept / values)
        magnitudes[1:] *= 1.0 - excess / max(float(magnitudes[1:].sum()), 1e-12)
        magnitudes[0] += excess
        return magnitudes


def dead_zone_probabilities(step: float, rounding: float) -> Float64[np.ndarray, " magnitude"]:
    """How often |q| is 0, 1, 2, ... for Laplace values of unit variance: P(|q| >= n) =
    exp(-sqrt(2) (n - rounding) step)."""
    largest = max(2, math.ceil(20.0 / step))
    beyond = np.exp(-math.sqrt(2.0) * (np.arange(1, largest + 1) - rounding) * step)
    return -np.diff(np.concatenate(([1.0], beyond, [0.0])))


def dead_zone_step(bits: float, rounding: float) -> float:
    """The step at which Laplace values of unit variance take `bits` each, signs included."""
    low, high = 1e-3, 100.0
    for _ in range(60):
        step = math.sqrt(low * high)
        magnitudes = dead_zone_probabilities(step, rounding)
        if signed_entropy(magnitudes) > bits:
            low = step
        else:
            high = step
    return high


def robust_scale(values: Float32[Array, "row column"], largest: float, kernels: Kernels) -> float:
    """The root mean square of `values`, whose largest magnitude is given, without the columns of
    most energy; 1 where that is 0."""
    # scaled first, so that no square overflows or vanishes
    if largest == 0.0:
        return 1.0
    unit = values / largest if not 1e-15 < largest < 1e15 else values
    energy = kernels.arrays.energies(unit).astype(np.float64)
    dropped = math.ceil(MASSIVE_SHARE * energy.size) if energy.size > 1 else 0
    rest = np.sort(energy)[: energy.size - dropped]
    mean = float(rest.mean()) / len(values)
    if mean == 0.0:
        mean = float(energy.mean()) / len(values)
    return math.sqrt(mean) * (1.0 if unit is values else largest)


def _largest_symbol(largest: np.float32, step: np.float32, rounding: np.float32) -> int:
    """What `Kernels.quantise_dead_zone` makes of the largest magnitude, by the same arithmetic."""
    with np.errstate(over="ignore"):
        size = min(largest * (np.float32(1) / step), np.float32(LARGEST_SYMBOL))
    return int(size + rounding)


def _shifts(moments: Moments) -> tuple[float, float]:
    """The mean place within a cell; half of 1/4096 makes up for rounding down."""
    pairs = ((moments.ones, moments.ones_excess), (moments.more, moments.more_excess))
    one, more = (((excess / n + 0.5) / 4096 if n else 0.0) for n, excess in pairs)
    return one, more


def _missing_shift(
    values: Float32[Array, "row column"],
    symbols: Int16[Array, "row column"],
    step: float,
    shifts: tuple[float, float],
    kernels: Kernels,
) -> float:
    """By how much all decoded magnitudes must grow [steps] for their energy to be that of `values`,
    the columns of most energy left out: the root x of n x^2 + 2 x sum(|x'|) = what is missing."""
    every = max(len(values) // ENERGY_ROWS, 1)
    some, some_symbols = values[::every], symbols[::every]
    arrays = kernels.arrays
    energy = arrays.energies(some / step).astype(np.float64)
    flat = some_symbols.reshape(-1)
    decoded = kernels.dequantise_dead_zone(flat, np.float32(1.0), *map(np.float32, shifts))
    decoded = decoded.reshape(some_symbols.shape)
    counts = arrays.to_host((some_symbols != 0).sum(0)).astype(np.float64)
    sizes = arrays.to_host(abs(decoded).sum(0)).astype(np.float64)
    missing = energy - arrays.energies(decoded)
    massive = math.ceil(MASSIVE_SHARE * energy.size)
    kept = np.argsort(energy)[: max(energy.size - massive, 1)]
    n, total, lacking = counts[kept].sum(), sizes[kept].sum(), missing[kept].sum()
    if n == 0 or not 0.0 < lacking < math.inf:
        return 0.0
    return float((math.sqrt(total * total + n * lacking) - total) / n)
