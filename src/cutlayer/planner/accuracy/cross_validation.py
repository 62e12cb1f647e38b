"""How well each surface tells the accuracy of a setting that it has not seen.

Each point is left out in turn. Knows both surfaces; the planner decides on the monotone one.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from cutlayer.planner.accuracy.cubic import CubicSurface
from cutlayer.planner.accuracy.cubic import fit as fit_cubic
from cutlayer.planner.accuracy.monotone import Grid, isotonic, monotone_surface
from cutlayer.planner.accuracy.profile import Profile
from cutlayer.planner.accuracy.samples import Samples, samples_of
from cutlayer.planner.accuracy.surface import AccuracySurface

_POINTS = 100.0


@dataclass(frozen=True, eq=False)
class Judged:
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
class Fitted:
    """Both surfaces through the samples of a profile.

    `noise` [points]: the standard error of a sample by its seeds, which no surface can be expected
    to go below; NaN with one seed.
    """

    samples: Samples
    cubic: Judged
    monotone: Judged
    noise: float


def fit(profile: Profile) -> Fitted:
    """Fit and judge both. Raises ConfigError: the profile has no full grid."""
    samples = samples_of(profile)
    return Fitted(samples, _cubic(samples), _monotone(samples), _POINTS * samples.noise)


def _cubic(samples: Samples) -> Judged:
    found = fit_cubic(samples.keep_ratio, samples.bits, samples.accuracy)
    surface = CubicSurface(found.coefficients, samples.box)
    return Judged(surface, _POINTS * found.residuals, _POINTS * found.left_out)


def _monotone(samples: Samples) -> Judged:
    surface = monotone_surface(samples)
    fitted = surface.at(samples.keep_ratio, samples.bits)
    told = np.array([_told(samples, number) for number in range(len(samples.accuracy))])
    measured = samples.accuracy
    return Judged(surface, _POINTS * (measured - fitted), _POINTS * (measured - told))


def _told(samples: Samples, number: int) -> float:
    """What the monotone surface through all other points says of this one.

    Interpolation through its neighbours, as far as the fit before and after it allows.
    """
    grid = Grid.of(samples)
    row, column = int(grid.places[0][number]), int(grid.places[1][number])
    told = _interpolated(grid, row, column)
    weights = grid.weights.copy()
    # without any weight it moves no other point
    weights[row, column] = 0.0
    if not weights.any():
        return told
    fitted = np.pad(isotonic(grid.accuracy, weights), 1, constant_values=np.nan)
    before = np.nanmax([fitted[row, column + 1], fitted[row + 1, column], -np.inf])
    after = np.nanmin([fitted[row + 2, column + 1], fitted[row + 1, column + 2], np.inf])
    return float(np.clip(told, before, after))


def _interpolated(grid: Grid, row: int, column: int) -> float:
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
