"""Which cut and which compression make the round shortest: the problem (P1), and its answers.

Knows the delay at each cut as a line in the compression ratio, and not how a choice is found:
`exact` finds the best; the paper's way is its Algorithm 2, in `reproduction`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Bool, Float64, Int64

from cutlayer.errors import ConfigError
from cutlayer.planner.accuracy.surface import AccuracySurface, Box
from cutlayer.planner.configuration.compression import CompressionRatio
from cutlayer.units import format_bytes

# of a surface's value, which may differ in its last bits alone and among others
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class ConfigurationProblem:
    """Minimise the round's delay over the cut, the keep ratio and whole bits.

    A row for each cut from 1 on, a column for each device. Device n's round at a cut takes
    `fixed_s + beta per_ratio_s`, beta the compression ratio; the round takes as long as the slowest
    device. The accuracy must reach `least_accuracy`; no device may need more than its `limit_bytes`
    (infinite: no limit) of the `need_bytes` at a cut; a cut is at least `least_cut`, and the part
    of the round for which the server computes (`server_busy`, counted by the caller) at most
    `most_busy`. `box`: keep ratios and bits to choose from, inside the surface's.

    Raises ConfigError for no cut or device, values that are negative or not finite, limits that are
    not positive, and a box without whole bits or outside the surface's.
    Source: SFT eq. (37); memory for each device and cut, limits of privacy and server added.
    """

    fixed_s: Float64[np.ndarray, "cut device"]
    per_ratio_s: Float64[np.ndarray, "cut device"]
    compression: CompressionRatio
    surface: AccuracySurface
    least_accuracy: float
    need_bytes: Float64[np.ndarray, "cut device"]
    limit_bytes: Float64[np.ndarray, " device"]
    server_busy: Float64[np.ndarray, " cut"]
    box: Box
    least_cut: int = 1
    most_busy: float = 1.0

    def __post_init__(self) -> None:
        if not self.fixed_s.size:
            raise ConfigError("a configuration needs at least one cut and one device")
        for name, values in (
            ("fixed_s", self.fixed_s),
            ("per_ratio_s", self.per_ratio_s),
            ("need_bytes", self.need_bytes),
            ("server_busy", self.server_busy),
        ):
            wrong = values[~(np.isfinite(values) & (values >= 0))]
            if wrong.size:
                raise ConfigError(f"{name} must be finite and not negative, and has {wrong[0]:g}")
        # NaN is not above 0
        if not (self.limit_bytes > 0).all():
            raise ConfigError(f"limit_bytes must be above 0: {self.limit_bytes.tolist()}")
        if not 0 <= self.least_accuracy <= 1:
            raise ConfigError(f"least_accuracy is {self.least_accuracy}: a share is 0 to 1")
        corners = np.array([self.box.keep_ratio, self.box.bits])
        self.surface.box.check(*corners)
        if not self.box.whole_bits().size:
            raise ConfigError(
                f"bits {self.box.bits[0]:g} to {self.box.bits[1]:g} hold no whole number"
            )

    @property
    def cuts(self) -> Int64[np.ndarray, " cut"]:
        """Blocks on the devices, 1 first."""
        return np.arange(1, len(self.fixed_s) + 1)

    @property
    def shortage_bytes(self) -> Float64[np.ndarray, " cut"]:
        """By how much the device that lacks most lacks memory at each cut; negative is room."""
        return np.asarray((self.need_bytes - self.limit_bytes).max(axis=1))

    @property
    def open(self) -> Bool[np.ndarray, " cut"]:
        """Cuts that are deep enough and leave the server time, whether or not they fit."""
        return np.asarray((self.cuts >= self.least_cut) & (self.server_busy <= self.most_busy))

    @property
    def allowed(self) -> Bool[np.ndarray, " cut"]:
        """Those of them that fit every device."""
        return self.open & (self.shortage_bytes <= 0)

    def delay_s(self, ratio: Float64[np.ndarray, "*point"]) -> Float64[np.ndarray, "cut *point"]:
        """The round at each cut and compression ratio [s]."""
        each = self.fixed_s[..., None] + self.per_ratio_s[..., None] * ratio.ravel()
        return np.asarray(each.max(axis=1).reshape(len(self.fixed_s), *ratio.shape))

    def choice(self, cut: int, keep_ratio: float, bits: float) -> "Choice":
        """What a choice comes to, allowed or not."""
        rho, q = np.array([keep_ratio]), np.array([bits])
        ratio = self.compression.at(rho, q)
        accuracy = float(self.surface.at(rho, q)[0])
        delay_s = float(self.delay_s(ratio)[cut - 1, 0])
        return Choice(cut, keep_ratio, bits, float(ratio[0]), accuracy, delay_s)

    def feasible(self, choice: "Choice", tolerance: float = _ROUNDING) -> bool:
        """Whether a choice keeps all limits, accuracy within `tolerance`."""
        reaches = choice.accuracy >= self.least_accuracy - tolerance
        return reaches and bool(self.allowed[choice.cut - 1])


@dataclass(frozen=True)
class Choice:
    """A cut, a setting of the codec, and what they come to.

    `ratio`: bytes sent over float32's. `accuracy` by the surface [share of test samples].
    """

    cut: int
    keep_ratio: float
    bits: float
    ratio: float
    accuracy: float
    delay_s: float


class Status(StrEnum):
    """How a solver ended."""

    OPTIMAL = "optimal"
    CONVERGED = "converged"
    NOT_CONVERGED = "not converged"
    INACCURATE = "no setting reaches the accuracy"
    NO_CUT = "no cut keeps the limits"


@dataclass(frozen=True)
class Iteration:
    """One step of an iterative solver: its Lagrangian [s], its choice, whether that is feasible."""

    lagrangian_s: float
    choice: Choice
    feasible: bool


@dataclass(frozen=True)
class ConfigurationSolution:
    """What a solver found.

    `choice`: the last one tried; of `OPTIMAL` no other is faster, of `CONVERGED` that is not
    known. None if nothing is feasible, and `reason` says why and what would change it. `history` is
    empty for a solver without iterations.
    """

    status: Status
    choice: Choice | None
    reason: str
    history: tuple[Iteration, ...] = ()

    def chosen(self) -> Choice:
        """The choice. Raises ConfigError with the reason if it is none to go by."""
        if self.choice is None or self.status is Status.NOT_CONVERGED:
            raise ConfigError(self.reason)
        return self.choice


def not_converged(history: Sequence[Iteration]) -> ConfigurationSolution:
    """The last choice of a solver that ran out of iterations."""
    last = history[-1]
    kept = "keeps all limits" if last.feasible else "breaks a limit"
    reason = f"no convergence in {len(history)} iterations; the last choice {kept}"
    return ConfigurationSolution(Status.NOT_CONVERGED, last.choice, reason, tuple(history))


def why_no_cut(problem: ConfigurationProblem) -> str:
    """Which limit stands against each cut, and the least that would let one through."""
    short = problem.shortage_bytes
    deep = np.flatnonzero(problem.cuts >= problem.least_cut)
    if not deep.size:
        return (
            f"cuts go from 1 to {len(problem.cuts)}, none is {problem.least_cut} or more;"
            " lower the least cut"
        )
    nearest = deep[np.argmin(np.maximum(short[deep], 0.0))]
    if short[nearest] > 0:
        return _out_of_memory(problem, int(nearest))
    calm = deep[short[deep] <= 0]
    least = calm[np.argmin(problem.server_busy[calm])]
    return (
        f"the server would compute for {problem.server_busy[least]:.1%} of the round even at cut"
        f" {least + 1}, of the cuts that fit the devices; allowed are {problem.most_busy:.1%}"
    )


def _out_of_memory(problem: ConfigurationProblem, row: int) -> str:
    lacks: Float64[np.ndarray, " device"] = problem.need_bytes[row] - problem.limit_bytes
    device = int(np.argmax(lacks))
    need, limit = problem.need_bytes[row, device], problem.limit_bytes[device]
    others = int((lacks > 0).sum()) - 1
    also = f", and {others} more are short of memory" if others else ""
    return (
        f"no cut fits all devices: cut {row + 1} comes nearest, needs {format_bytes(need)} on"
        f" device {device}, whose limit is {format_bytes(limit)}{also}; give it"
        f" {format_bytes(lacks[device])} more, take smaller mini-batches, or leave it out"
    )
