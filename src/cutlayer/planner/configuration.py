"""Which cut and which compression make the round shortest (P1), solved exactly, without iterations.

The delay rises with the compression ratio at every cut, and nothing else ties the two together. So
the smallest ratio that is accurate enough is right for all cuts, and then the cuts are compared.
Knows the delay at each cut as a line in the ratio, and no link. The paper's way is its Algorithm 2,
in `reproduction`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float64, Int64

from cutlayer.errors import ConfigError
from cutlayer.planner.accuracy import GRID_CODECS, AccuracySurface, SettingsBox, fit_surfaces
from cutlayer.planner.bandwidth import SolverStatus
from cutlayer.planner.decision import CodecChoice
from cutlayer.planner.profile import Profile, ProfilePoint
from cutlayer.units import format_bytes

_FLOAT32_BITS = 32
# of a surface's value, which may differ in its last bits alone and among others
_ROUNDING = 1e-12
# keep ratios tried for each number of bits, before the ends of the accurate ranges are searched
_SCANNED = 513
_SECTIONS = 16
# two of sixteen sections remain: 8^-10 is 1e-9, and a valley is flat below the root of rounding
_VALLEY_ROUNDS = 10
# one remains: 16^-13 is 2e-16
_END_ROUNDS = 13

Places = Float64[np.ndarray, "each place"]
Each = Float64[np.ndarray, " each"]


class CompressionRatio(ABC):
    """Bytes sent over bytes of float32, the paper's beta, by keep ratio and bits (levels = 2^q -
    1).

    Told without sending anything.
    """

    @abstractmethod
    def at(
        self, keep_ratio: Float64[np.ndarray, "*point"], bits: Float64[np.ndarray, "*point"]
    ) -> Float64[np.ndarray, "*point"]:
        """The ratio at each point: positive and continuous in the keep ratio. It may fall where
        more is kept: with everything kept, no positions are sent."""


@final
@dataclass(frozen=True)
class EntropyRatio(CompressionRatio):
    """Plain bits for sign and level, and as few for positions as their entropy allows.

    `(rho (1 + q) + H2(rho)) / 32`, H2 the binary entropy; Golomb's gaps come within a few per cent.
    It rises with rho up to 1 / (1 + 2^-(1+q)).
    """

    def at(
        self, keep_ratio: Float64[np.ndarray, "*point"], bits: Float64[np.ndarray, "*point"]
    ) -> Float64[np.ndarray, "*point"]:
        """See `CompressionRatio.at`."""
        rho, q = keep_ratio, bits
        return np.asarray((rho * (1 + q) + _entropy(rho)) / _FLOAT32_BITS)


@final
@dataclass(frozen=True, eq=False)
class TabledRatio(CompressionRatio):
    """Known on a grid of keep ratios and bits; lines between them, one way and then the other."""

    keep_ratios: Float64[np.ndarray, " keep_ratio"]
    bits: Float64[np.ndarray, " bits"]
    ratios: Float64[np.ndarray, "keep_ratio bits"]

    def at(
        self, keep_ratio: Float64[np.ndarray, "*point"], bits: Float64[np.ndarray, "*point"]
    ) -> Float64[np.ndarray, "*point"]:
        """See `CompressionRatio.at`. Raises ConfigError for a point that is not in the table."""
        (least, most), (fewest, highest) = self.keep_ratios[[0, -1]], self.bits[[0, -1]]
        inside = (keep_ratio >= least) & (keep_ratio <= most) & (bits >= fewest) & (bits <= highest)
        if not inside.all():
            raise ConfigError(
                f"compression is known for keep ratios {least:g} to {most:g} and {fewest:g} to"
                f" {highest:g} bits; make the table larger"
            )
        columns = np.stack([np.interp(keep_ratio, self.keep_ratios, r) for r in self.ratios.T])
        place = np.interp(bits, self.bits, np.arange(len(self.bits)))
        low = np.minimum(place.astype(np.int64), max(len(self.bits) - 2, 0))
        high = np.minimum(low + 1, len(self.bits) - 1)
        below, above = (np.take_along_axis(columns, at[None], axis=0)[0] for at in (low, high))
        return np.asarray(below + (place - low) * (above - below))


def _entropy(part: Float64[np.ndarray, "*point"]) -> Float64[np.ndarray, "*point"]:
    """H2 [bit]; 0 at both ends."""
    other = 1.0 - part
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(p > 0, p * np.log2(p), 0.0) for p in (part, other)]
    return np.asarray(-terms[0] - terms[1])


# The problem and its answers.


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
    box: SettingsBox
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
        """By how much the device that is shortest is short of memory at each cut; negative is
        room."""
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

    def choice(self, cut: int, keep_ratio: float, bits: float) -> "ConfigurationChoice":
        """What a choice comes to, allowed or not."""
        rho, q = np.array([keep_ratio]), np.array([bits])
        ratio = self.compression.at(rho, q)
        accuracy = float(self.surface.at(rho, q)[0])
        delay_s = float(self.delay_s(ratio)[cut - 1, 0])
        return ConfigurationChoice(cut, keep_ratio, bits, float(ratio[0]), accuracy, delay_s)

    def feasible(self, choice: "ConfigurationChoice", tolerance: float = _ROUNDING) -> bool:
        """Whether a choice keeps all limits, accuracy within `tolerance`."""
        reaches = choice.accuracy >= self.least_accuracy - tolerance
        return reaches and bool(self.allowed[choice.cut - 1])


@dataclass(frozen=True)
class ConfigurationChoice:
    """A cut, a setting of the codec, and what they come to.

    `ratio`: bytes sent over float32's. `accuracy` by the surface [share of test samples].
    """

    cut: int
    keep_ratio: float
    bits: float
    ratio: float
    accuracy: float
    delay_s: float


@dataclass(frozen=True)
class ConfigurationSolution:
    """What the solver found: a choice that no other is faster than, or why there is none.

    `choice` is None if nothing is feasible; `reason` says why and what would change it.
    """

    status: SolverStatus
    choice: ConfigurationChoice | None
    reason: str

    def chosen(self) -> ConfigurationChoice:
        """The choice. Raises ConfigError with the reason if there is none."""
        if self.choice is None:
            raise ConfigError(self.reason)
        return self.choice


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
    short_bytes: Float64[np.ndarray, " device"] = problem.need_bytes[row] - problem.limit_bytes
    device = int(np.argmax(short_bytes))
    need, limit = problem.need_bytes[row, device], problem.limit_bytes[device]
    others = int((short_bytes > 0).sum()) - 1
    also = f", and {others} more are short of memory" if others else ""
    return (
        f"no cut fits all devices: cut {row + 1} comes nearest, needs {format_bytes(need)} on"
        f" device {device}, whose limit is {format_bytes(limit)}{also}; give it"
        f" {format_bytes(short_bytes[device])} more, take smaller mini-batches, or leave it out"
    )


# Many valleys and many ends at once, by ever finer grids: many values in few calls, where bisection
# asks for one at a time.


def lowest_points(heights: Callable[[Places], Places], low: Each, high: Each) -> Each:
    """Where each of some functions is lowest between its `low` and `high`, ends included.

    `heights` has a row of places for each. Right where there is one valley between the two; else in
    one that a sixteenth of the way shows.
    """
    rows = np.arange(len(low))
    for _ in range(_VALLEY_ROUNDS):
        places = _between(low, high)
        best = np.argmin(heights(places), axis=1)
        low = places[rows, np.maximum(best - 1, 0)]
        high = places[rows, np.minimum(best + 1, _SECTIONS)]
    places = _between(low, high)
    return np.asarray(places[rows, np.argmin(heights(places), axis=1)])


def last_points(
    kept: Callable[[Places], Bool[np.ndarray, "each place"]], inside: Each, outside: Each
) -> Each:
    """The last place on the way from each `inside` to its `outside` where a condition is kept.

    It is kept inside, not outside, and taken to end once.
    """
    rows = np.arange(len(inside))
    for _ in range(_END_ROUNDS):
        places = _between(inside, outside)
        lost = np.argmin(kept(places)[:, 1:], axis=1) + 1
        inside, outside = places[rows, lost - 1], places[rows, lost]
    return inside


def _between(begin: Each, end: Each) -> Places:
    """17 places from begin to end, both exact."""
    part = np.linspace(0.0, 1.0, _SECTIONS + 1)
    return np.asarray((1.0 - part) * begin[:, None] + part * end[:, None])


# The solver.


def solve_configuration(problem: ConfigurationProblem) -> ConfigurationSolution:
    """The shortest round that keeps all limits, or why there is none.

    Neither accuracy nor ratio need rise with the keep ratio: what matters is that the accuracy
    crosses the limit at most once between two of 513 keep ratios, as it does on a monotone surface,
    and that the ratio has at most one valley between three. The ends of accurate ranges are found
    to the last bit.
    """
    if not problem.allowed.any():
        return ConfigurationSolution(SolverStatus.NO_CUT, None, why_no_cut(problem))
    scan = _scan(problem)
    if not scan.accurate.any():
        return ConfigurationSolution(SolverStatus.INACCURATE, None, _why_inaccurate(problem, scan))
    keep_ratio, bits = _smallest_ratio(problem, scan)
    delays_s = problem.delay_s(problem.compression.at(np.array([keep_ratio]), np.array([bits])))
    cut = 1 + int(np.argmin(np.where(problem.allowed, delays_s[:, 0], np.inf)))
    return ConfigurationSolution(
        SolverStatus.OPTIMAL,
        problem.choice(cut, keep_ratio, bits),
        "no allowed choice is faster",
    )


@dataclass(frozen=True, eq=False)
class _Scan:
    """Keep ratios that rise along the points, for each whole number of bits."""

    keep_ratio: Float64[np.ndarray, "bits point"]
    bits: Float64[np.ndarray, "bits point"]
    accuracy: Float64[np.ndarray, "bits point"]
    accurate: Bool[np.ndarray, "bits point"]


def _scan(problem: ConfigurationProblem) -> _Scan:
    keep_ratios = np.geomspace(*problem.box.keep_ratio, _SCANNED)
    bits, rho = np.meshgrid(problem.box.whole_bits(), keep_ratios, indexing="ij")
    accuracy = problem.surface.at(rho, bits)
    return _Scan(rho, bits, accuracy, accuracy >= problem.least_accuracy)


def _smallest_ratio(problem: ConfigurationProblem, scan: _Scan) -> tuple[float, float]:
    """Keep ratio and bits where the ratio is smallest of all accurate ones.

    At an end of an accurate range, or in a valley inside one.
    """
    end, end_bits = _ends(problem, scan)
    rho = np.concatenate([scan.keep_ratio[scan.accurate], end])
    bits = np.concatenate([scan.bits[scan.accurate], end_bits])
    best = int(np.argmin(problem.compression.at(rho, bits)))
    near = np.sort(rho[bits == bits[best]])
    place = int(np.searchsorted(near, rho[best]))
    around = near[max(place - 1, 0)], near[min(place + 1, len(near) - 1)]
    (valley,) = lowest_points(
        lambda rho: problem.compression.at(rho, np.full_like(rho, bits[best])),
        np.array([around[0]]),
        np.array([around[1]]),
    )
    two, q = np.array([rho[best], valley]), np.full(2, bits[best])
    ratio = problem.compression.at(two, q)
    accurate = problem.surface.at(two, q) >= problem.least_accuracy
    return float(two[np.argmin(np.where(accurate, ratio, np.inf))]), float(bits[best])


def _ends(problem: ConfigurationProblem, scan: _Scan) -> tuple[Each, Each]:
    """The ends of accurate ranges between scanned points, and their bits; on the accurate side."""
    row, left = np.nonzero(scan.accurate[:, 1:] != scan.accurate[:, :-1])
    bits, begins = scan.bits[row, left], scan.accurate[row, left]
    below, above = scan.keep_ratio[row, left], scan.keep_ratio[row, left + 1]
    inside, outside = np.where(begins, below, above), np.where(begins, above, below)

    def accurate(rho: Places) -> Bool[np.ndarray, "each place"]:
        accuracy = problem.surface.at(rho, np.broadcast_to(bits[:, None], rho.shape))
        return np.asarray(accuracy >= problem.least_accuracy)

    return last_points(accurate, inside, outside), bits


def _why_inaccurate(problem: ConfigurationProblem, scan: _Scan) -> str:
    """The most accurate setting, which is the least that would have to be accepted."""
    best = np.unravel_index(np.argmax(scan.accuracy), scan.accuracy.shape)
    return (
        f"no keep ratio of {problem.box.keep_ratio[0]:g} to {problem.box.keep_ratio[1]:g} with"
        f" {scan.bits[0, 0]:g} to {scan.bits[-1, 0]:g} bits reaches an accuracy of"
        f" {problem.least_accuracy:.4f}: the best is {scan.accuracy[best]:.4f}, at keep ratio"
        f" {scan.keep_ratio[best]:g} and {scan.bits[best]:g} bits; ask for no more than that"
    )


# Which codecs there are to choose from: those measured, and the best setting between the measured.
#
# Knows profiles and surfaces; nothing of links and seconds.


@dataclass(frozen=True)
class CodecChoices:
    """What a plan may choose (`accurate`, none of which sends more both ways than another), what
    costs too much accuracy, and what the paper's own plan takes (None: nothing is accurate enough).

    `loss_error`: the standard error of their losses, a share of the test samples; None: no losses.
    """

    accurate: tuple[CodecChoice, ...]
    inaccurate: tuple[CodecChoice, ...]
    published: CodecChoice | None
    loss_error: float | None = None


def measured_choices(profile: Profile, most_loss: float) -> CodecChoices:
    """From a profile: every measured point but those of the grid, and of the grid's codecs the
    setting of fewest bits that loses at most `most_loss` on the monotone surface.

    Raises ConfigError: the profile has no full grid.
    """
    reference = profile.uncompressed.accuracy
    measured = [
        _choice(point, reference - point.accuracy)
        for point in profile.points
        if point.codec not in GRID_CODECS
    ]
    surface = fit_surfaces(profile).monotone.surface
    rans, paper = (
        smallest_setting(profile, codec, surface, most_loss, reference) for codec in GRID_CODECS
    )
    good = [each for each in measured if _loss(each) <= most_loss]
    good += [] if rans is None else [rans]
    bad = [each for each in measured if _loss(each) > most_loss]
    return CodecChoices(tuple(_undominated(good)), tuple(bad), paper, profile.loss_error)


def every_choice(profile: Profile) -> tuple[CodecChoice, ...]:
    """Every measured point that no other one beats in bits both ways and in accuracy. What seems to
    be more accurate than no codec counts as no loss."""
    reference = profile.uncompressed.accuracy
    kept: list[CodecChoice] = []
    every = [_choice(point, max(reference - point.accuracy, 0.0)) for point in profile.points]
    for choice in sorted(every, key=lambda each: (each.up, each.down, _loss(each))):
        if all(_loss(choice) < _loss(each) or choice.down < each.down for each in kept):
            kept.append(choice)
    return tuple(kept)


def smallest_setting(
    profile: Profile,
    codec: str,
    surface: AccuracySurface,
    most_loss: float,
    reference: float,
) -> CodecChoice | None:
    """The keep ratio and bits at which `codec` sends least and loses at most `most_loss`.

    Its bits are interpolated between the measured keep ratios. None: no setting is accurate enough.
    """
    points = profile.of(codec)
    if not points:
        return None
    both = _table(points, [(point.bits_up + point.bits_down) / 2 for point in points])
    problem = ConfigurationProblem(
        fixed_s=np.zeros((1, 1)),
        per_ratio_s=np.ones((1, 1)),
        compression=both,
        surface=surface,
        least_accuracy=min(max(reference - most_loss, 0.0), 1.0),
        need_bytes=np.zeros((1, 1)),
        limit_bytes=np.full(1, np.inf),
        server_busy=np.zeros(1),
        box=surface.box,
    )
    choice = solve_configuration(problem).choice
    if choice is None:
        return None
    at = np.array([choice.keep_ratio]), np.array([choice.bits])
    up, down = (
        float(_table(points, values).at(*at)[0])
        for values in ([p.bits_up for p in points], [p.bits_down for p in points])
    )
    settings = {"keep_ratio": choice.keep_ratio, "levels": 2.0**choice.bits - 1}
    # on the boundary the loss is the limit, rounding apart
    loss = min(reference - choice.accuracy, most_loss)
    return CodecChoice(codec, settings, up, down, loss)


def _table(points: Sequence[ProfilePoint], bits_sent: Sequence[float]) -> TabledRatio:
    """Bits per value over 32, by keep ratio and bits of a level."""
    rows = [(p.settings["keep_ratio"], float(np.log2(p.settings["levels"] + 1))) for p in points]
    keep_ratios = np.array(sorted({rho for rho, _ in rows}))
    bits = np.array(sorted({q for _, q in rows}))
    ratios = np.empty((len(keep_ratios), len(bits)))
    for (rho, q), sent in zip(rows, bits_sent, strict=True):
        ratios[np.searchsorted(keep_ratios, rho), np.searchsorted(bits, q)] = sent / _FLOAT32_BITS
    # measured bits rise with the keep ratio but for their noise
    return TabledRatio(keep_ratios, bits, np.maximum.accumulate(ratios, axis=0))


def _choice(point: ProfilePoint, loss: float) -> CodecChoice:
    up, down = point.bits_up / _FLOAT32_BITS, point.bits_down / _FLOAT32_BITS
    return CodecChoice(point.codec, point.settings, up, down, loss)


def _loss(choice: CodecChoice) -> float:
    assert choice.accuracy_loss is not None  # it comes from a profile
    return choice.accuracy_loss


def _undominated(choices: Iterable[CodecChoice]) -> list[CodecChoice]:
    """Those that no other one beats in both directions, fewest bits up first."""
    kept: list[CodecChoice] = []
    for choice in sorted(choices, key=lambda each: (each.up, each.down)):
        if not kept or choice.down < kept[-1].down:
            kept.append(choice)
    return kept
