"""Accuracy as a function of what the codec keeps: surfaces through measured points.

Two of them: the paper's cubic, fitted by least squares, which may fall where more is kept; and one
that never predicts worse for more kept or more bits, on which the planner decides. Each is judged
by how well it tells the accuracy of a setting that it has not seen. Knows numbers only, and which
codecs have a keep ratio and levels.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from cutlayer.errors import ConfigError
from cutlayer.planner.profile import Profile

# both send the same tensors, in more or fewer bytes
GRID_CODECS = ("paper-rans", "paper")
# of sums of some hundred weighted values, against the sum of their sizes
_ROUNDING = 1e-13
_POINTS = 100.0


@dataclass(frozen=True)
class SettingsBox:
    """Keep ratios and bits from the least to the most, ends included.

    `bits` is q of levels = 2^q - 1, and need not be whole. Raises ConfigError unless
    0 < least <= most for both and no keep ratio is above 1.
    """

    keep_ratio: tuple[float, float]
    bits: tuple[float, float]

    def __post_init__(self) -> None:
        least, most = self.keep_ratio
        if not 0 < least <= most <= 1:
            raise ConfigError(f"keep ratios {least:g} to {most:g}: give 0 < least <= most <= 1")
        fewest, highest = self.bits
        if not 0 < fewest <= highest < np.inf:
            raise ConfigError(f"bits {fewest:g} to {highest:g}: give 0 < fewest <= most")

    def check(
        self, keep_ratio: Float64[np.ndarray, "*point"], bits: Float64[np.ndarray, "*point"]
    ) -> None:
        """Raise ConfigError for a point outside: nothing was measured there."""
        for name, values, (least, most) in (
            ("keep ratio", keep_ratio, self.keep_ratio),
            ("bits", bits, self.bits),
        ):
            # NaN is not inside
            wrong = values[~((values >= least) & (values <= most))]
            if wrong.size:
                raise ConfigError(
                    f"{name} {wrong.flat[0]:g} is outside {least:g} to {most:g}, where accuracy was"
                    " measured; choose one inside, or profile a larger grid"
                )

    def whole_bits(self) -> Float64[np.ndarray, " bits"]:
        """The whole numbers of bits inside; may be empty."""
        fewest, most = self.bits
        return np.arange(np.ceil(fewest), np.floor(most) + 1)


class AccuracySurface(ABC):
    """Accuracy [share of test samples] over a box of keep ratios and bits."""

    @property
    @abstractmethod
    def box(self) -> SettingsBox:
        """Where it was sampled."""

    @abstractmethod
    def at(
        self, keep_ratio: Float64[np.ndarray, "*point"], bits: Float64[np.ndarray, "*point"]
    ) -> Float64[np.ndarray, "*point"]:
        """The accuracy at each point. Raises ConfigError for a point outside the box."""


@dataclass(frozen=True, eq=False)
class ProfileSamples:
    """Settings that were trained, each once; `bits` is q of levels = 2^q - 1.

    `accuracy` [share of test samples] is the mean over `runs` of them, whose variance among
    the seeds is `variance`: NaN where there was one.
    """

    keep_ratio: Float64[np.ndarray, " point"]
    bits: Float64[np.ndarray, " point"]
    accuracy: Float64[np.ndarray, " point"]
    runs: Float64[np.ndarray, " point"]
    variance: Float64[np.ndarray, " point"]

    @property
    def box(self) -> SettingsBox:
        """The smallest that holds every point."""
        rho, q = self.keep_ratio, self.bits
        return SettingsBox(
            (float(rho.min()), float(rho.max())),
            (float(q.min()), float(q.max())),
        )

    @property
    def noise(self) -> float:
        """How far a mean over the seeds is from that over all seeds: its standard error.

        From the points with several runs, NaN without any.
        """
        known = self.runs > 1
        if not known.any():
            return float("nan")
        return float(np.sqrt(np.mean(self.variance[known] / self.runs[known])))


def samples_of(profile: Profile) -> ProfileSamples:
    """What the profile says of the published codec. Raises ConfigError: nothing.

    Both of `GRID_CODECS` at one setting are one training run: they decode to equal tensors.
    """
    measured: dict[tuple[float, float], list[float]] = {}
    for point in profile.of(*GRID_CODECS):
        place = point.settings["keep_ratio"], float(np.log2(point.settings["levels"] + 1))
        measured.setdefault(place, list(point.accuracies))
    if not measured:
        raise ConfigError(
            f"the profile of {profile.model} on {profile.data} has no point of"
            f" {' or '.join(GRID_CODECS)}, so no accuracy by keep ratio and bits; profile again"
        )
    keep_ratio, bits = np.array(list(measured), dtype=np.float64).T
    each = [np.array(accuracies) for accuracies in measured.values()]
    return ProfileSamples(
        keep_ratio,
        bits,
        np.array([accuracies.mean() for accuracies in each]),
        np.array([float(len(accuracies)) for accuracies in each]),
        np.array([a.var(ddof=1) if len(a) > 1 else np.nan for a in each]),
    )


@dataclass(frozen=True, eq=False)
class CubicFit:
    """(35) through measured points, and how well it goes through them.

    `coefficients` are P_1 to P_10; `residuals` are measured less fitted, `left_out` the same for
    each point by the fit through all others [the unit of the values].
    """

    coefficients: Float[np.ndarray, "10"]
    residuals: Float[np.ndarray, " point"]
    left_out: Float[np.ndarray, " point"]

    def at(
        self, keep_ratio: Float[np.ndarray, " point"], bits: Float[np.ndarray, " point"]
    ) -> Float[np.ndarray, " point"]:
        """The fitted value at each point."""
        return np.asarray(cubic_terms(keep_ratio, bits) @ self.coefficients)

    @property
    def mean_square(self) -> float:
        """Mean of the squared residuals; points of NaN values are left aside here and below."""
        return float(np.nanmean(self.residuals**2))

    @property
    def left_out_root(self) -> float:
        """Root of the mean square of the residuals of points left out."""
        return float(np.sqrt(np.nanmean(self.left_out**2)))


@final
@dataclass(frozen=True, eq=False)
class CubicSurface(AccuracySurface):
    """(35) where it was fitted. `coefficients` are P_1 to P_10. Source: SFT eq. (35)."""

    coefficients: Float[np.ndarray, "10"]
    sampled: SettingsBox

    @property
    def box(self) -> SettingsBox:
        """See `AccuracySurface.box`."""
        return self.sampled

    def at(
        self, keep_ratio: Float64[np.ndarray, "*point"], bits: Float64[np.ndarray, "*point"]
    ) -> Float64[np.ndarray, "*point"]:
        """See `AccuracySurface.at`."""
        self.sampled.check(keep_ratio, bits)
        return np.asarray(cubic_terms(keep_ratio, bits) @ self.coefficients)


def cubic_terms(
    keep_ratio: Float[np.ndarray, "*point"], bits: Float[np.ndarray, "*point"]
) -> Float[np.ndarray, "*point 10"]:
    """1, rho, q, rho^2, q^2, rho q, rho^3, q^3, rho^2 q, rho q^2. Source: SFT eq. (35).

    The text calls q the quantisation level; Fig. 7 and this count bits.
    """
    rho, q = keep_ratio, bits
    columns = (
        np.ones_like(rho), rho, q, rho**2, q**2, rho * q, rho**3, q**3, rho**2 * q, rho * q**2
    )  # fmt: skip
    return np.stack(columns, axis=-1)


def fit_cubic(
    keep_ratio: Float[np.ndarray, " point"],
    bits: Float[np.ndarray, " point"],
    values: Float[np.ndarray, " point"],
) -> CubicFit:
    """The least-squares coefficients. Points of NaN values are left aside; their residuals are NaN.

    A point that alone decides a coefficient (leverage 1) says nothing when left out: infinity.
    """
    known = np.isfinite(values)
    matrix = cubic_terms(keep_ratio, bits)
    # columns differ by factors of hundreds: scaled, the rank is told from rounding
    scale = np.abs(matrix).max(axis=0)
    scaled = matrix[known] / scale
    solved, *_ = np.linalg.lstsq(scaled, values[known], rcond=None)
    coefficients = solved / scale
    leverage = np.full(len(values), np.nan)
    leverage[known] = np.einsum("ij,ji->i", scaled, np.linalg.pinv(scaled))
    residuals = values - matrix @ coefficients
    free = 1 - leverage
    left_out = np.divide(residuals, free, out=np.full_like(residuals, np.inf), where=~(free < 1e-9))
    return CubicFit(coefficients, residuals, left_out)


@final
@dataclass(frozen=True, eq=False)
class MonotoneSurface(AccuracySurface):
    """Values at the nodes of a grid, which rise with each axis, and lines between them.

    At the nodes it is the least-squares fit among all that do not fall (bivariate isotonic
    regression), between them bilinear in the logarithm of the keep ratio and in the bits: a
    bilinear patch between values that do not fall does not fall either.
    """

    keep_ratios: Float64[np.ndarray, " keep_ratio"]
    bits: Float64[np.ndarray, " bits"]
    values: Float64[np.ndarray, "keep_ratio bits"]

    @property
    def box(self) -> SettingsBox:
        """See `AccuracySurface.box`."""
        return SettingsBox(
            (float(self.keep_ratios[0]), float(self.keep_ratios[-1])),
            (float(self.bits[0]), float(self.bits[-1])),
        )

    def at(
        self, keep_ratio: Float64[np.ndarray, "*point"], bits: Float64[np.ndarray, "*point"]
    ) -> Float64[np.ndarray, "*point"]:
        """See `AccuracySurface.at`."""
        self.box.check(keep_ratio, bits)
        low, high, along = _between(np.log(self.keep_ratios), np.log(keep_ratio))
        few, many, up = _between(self.bits, bits)
        fewer = _line(self.values[low, few], self.values[high, few], along)
        more = _line(self.values[low, many], self.values[high, many], along)
        return _line(fewer, more, up)


def monotone_surface(samples: ProfileSamples) -> MonotoneSurface:
    """The surface through a full grid, each point weighted by its training runs.

    Raises ConfigError: a keep ratio was not measured with all numbers of bits.
    """
    grid = SampleGrid.of(samples)
    missing = np.argwhere(np.isnan(grid.accuracy))
    if len(missing):
        row, column = missing[0]
        raise ConfigError(
            f"the profile has no point of keep ratio {grid.keep_ratios[row]:g} and"
            f" {grid.bits[column]:g} bits: a surface needs every keep ratio with every number of"
            f" bits, and {len(missing)} of {grid.accuracy.size} are missing; profile those"
        )
    return MonotoneSurface(grid.keep_ratios, grid.bits, isotonic_fit(grid.accuracy, grid.weights))


@dataclass(frozen=True, eq=False)
class SampleGrid:
    """Samples by keep ratio and bits, both rising; NaN and weight 0 where there is none."""

    keep_ratios: Float64[np.ndarray, " keep_ratio"]
    bits: Float64[np.ndarray, " bits"]
    accuracy: Float64[np.ndarray, "keep_ratio bits"]
    weights: Float64[np.ndarray, "keep_ratio bits"]
    places: tuple[Int64[np.ndarray, " point"], Int64[np.ndarray, " point"]]

    @classmethod
    def of(cls, samples: ProfileSamples) -> "SampleGrid":
        """`places` are the row and the column of each sample."""
        keep_ratios, rows = np.unique(samples.keep_ratio, return_inverse=True)
        bits, columns = np.unique(samples.bits, return_inverse=True)
        accuracy = np.full((len(keep_ratios), len(bits)), np.nan)
        weights = np.zeros_like(accuracy)
        accuracy[rows, columns] = samples.accuracy
        weights[rows, columns] = samples.runs
        return cls(keep_ratios, bits, accuracy, weights, (rows, columns))


def isotonic_fit(
    values: Float64[np.ndarray, "row column"], weights: Float64[np.ndarray, "row column"]
) -> Float64[np.ndarray, "row column"]:
    """The least-squares fit that falls along neither axis.

    A weight may be 0 if one is not. Recursive partition: where a block has an upper set whose
    values lie above the block's mean by most, the fit is above the mean there and below it
    elsewhere; where none does, it is the mean. Exact, in as many steps as the fit has values.
    """
    fitted = np.zeros_like(values)
    blocks = [np.ones(values.shape, dtype=bool)]
    while blocks:
        block = blocks.pop()
        mean = np.average(values[block], weights=weights[block])
        above = np.where(block, weights * (values - mean), 0.0)
        upper = block & _best_upper_set(above)
        lower = block & ~upper
        gain, least = above[upper].sum(), _ROUNDING * np.sum(weights * np.abs(values), where=block)
        # the mean of the smallest numbers there are may be 0: all lie above it
        if gain > least and lower.any():
            blocks += [upper, lower]
        else:
            fitted[block] = mean
    # blocks of nearly equal means were split by rounding
    return np.asarray(np.maximum.accumulate(np.maximum.accumulate(fitted, axis=0), axis=1))


def _best_upper_set(gains: Float64[np.ndarray, "row column"]) -> Bool[np.ndarray, "row column"]:
    """Of the sets that hold, with a node, all that follow it along both axes: that of largest sum.

    Such a set starts in each row at a column that no later row starts after: a path, found by
    dynamic programming.
    """
    rows, columns = gains.shape
    # by the column where a row starts, one past the last for none of it
    sums = np.zeros((rows, columns + 1))
    sums[:, :-1] = np.cumsum(gains[:, ::-1], axis=1)[:, ::-1]
    best = sums.copy()
    for row in range(1, rows):
        best[row] += np.maximum.accumulate(best[row - 1, ::-1])[::-1]
    upper, start = np.zeros(gains.shape, dtype=bool), 0
    for row in reversed(range(rows)):
        start += int(np.argmax(best[row, start:]))
        upper[row, start:] = True
    return upper


def _between(
    nodes: Float64[np.ndarray, " node"], values: Float64[np.ndarray, "*point"]
) -> tuple[Int64[np.ndarray, "*point"], Int64[np.ndarray, "*point"], Float64[np.ndarray, "*point"]]:
    """The nodes below and above each value, and which part of the way it is."""
    last = len(nodes) - 1
    low = np.clip(np.searchsorted(nodes, values, side="right") - 1, 0, max(last - 1, 0))
    high = np.minimum(low + 1, last)
    width = np.where(high > low, nodes[high] - nodes[low], 1.0)
    return low, high, np.clip((values - nodes[low]) / width, 0.0, 1.0)


def _line(
    begin: Float64[np.ndarray, "*point"],
    end: Float64[np.ndarray, "*point"],
    part: Float64[np.ndarray, "*point"],
) -> Float64[np.ndarray, "*point"]:
    """Both ends are met exactly."""
    return np.asarray((1.0 - part) * begin + part * end)


@dataclass(frozen=True, eq=False)
class JudgedSurface:
    """A surface, and by how much it misses [points of accuracy], a number for each sample.

    `residuals`: measured less fitted. `left_out`: the same by the fit through all other points;
    infinite where those do not determine it.
    """

    surface: AccuracySurface
    residuals: Float64[np.ndarray, " point"]
    left_out: Float64[np.ndarray, " point"]

    @property
    def root(self) -> float:
        """Root mean square of the residuals [points]."""
        return _root(self.residuals)

    @property
    def left_out_root(self) -> float:
        """Root mean square error at points left out [points]."""
        return _root(self.left_out)


@dataclass(frozen=True, eq=False)
class FittedSurfaces:
    """Both surfaces through the samples of a profile.

    `noise` [points]: the standard error of a sample by its seeds, which no surface can be expected
    to go below; NaN with one seed.
    """

    samples: ProfileSamples
    cubic: JudgedSurface
    monotone: JudgedSurface
    noise: float


def fit_surfaces(profile: Profile) -> FittedSurfaces:
    """Fit and judge both. Raises ConfigError: the profile has no full grid."""
    samples = samples_of(profile)
    return FittedSurfaces(samples, _cubic(samples), _monotone(samples), _POINTS * samples.noise)


def _cubic(samples: ProfileSamples) -> JudgedSurface:
    found = fit_cubic(samples.keep_ratio, samples.bits, samples.accuracy)
    surface = CubicSurface(found.coefficients, samples.box)
    return JudgedSurface(surface, _POINTS * found.residuals, _POINTS * found.left_out)


def _monotone(samples: ProfileSamples) -> JudgedSurface:
    surface = monotone_surface(samples)
    fitted = surface.at(samples.keep_ratio, samples.bits)
    told = np.array([_told(samples, number) for number in range(len(samples.accuracy))])
    measured = samples.accuracy
    return JudgedSurface(surface, _POINTS * (measured - fitted), _POINTS * (measured - told))


def _told(samples: ProfileSamples, number: int) -> float:
    """What the monotone surface through all other points says of this one.

    Interpolation through its neighbours, as far as the fit before and after it allows.
    """
    grid = SampleGrid.of(samples)
    row, column = int(grid.places[0][number]), int(grid.places[1][number])
    told = _interpolated(grid, row, column)
    weights = grid.weights.copy()
    # without any weight it moves no other point
    weights[row, column] = 0.0
    if not weights.any():
        return told
    fitted = np.pad(isotonic_fit(grid.accuracy, weights), 1, constant_values=np.nan)
    before = np.nanmax([fitted[row, column + 1], fitted[row + 1, column], -np.inf])
    after = np.nanmin([fitted[row + 2, column + 1], fitted[row + 1, column + 2], np.inf])
    return float(np.clip(told, before, after))


def _interpolated(grid: SampleGrid, row: int, column: int) -> float:
    """A node's value by its neighbours: the mean over the axes along which it is between two.

    At a corner the mean of the nearest; infinite without any.
    """
    lines = (
        (np.log(grid.keep_ratios), grid.accuracy[:, column], row),
        (grid.bits, grid.accuracy[row], column),
    )
    longer = [line for line in lines if len(line[0]) > 1]
    inside = [line for line in longer if 0 < line[2] < len(line[0]) - 1]
    told = [
        np.interp(nodes[at], np.delete(nodes, at), np.delete(values, at))
        for nodes, values, at in inside or longer
    ]
    return float(np.mean(told)) if told else float("inf")


def _root(values: Float64[np.ndarray, " point"]) -> float:
    return float(np.sqrt(np.mean(values**2)))
