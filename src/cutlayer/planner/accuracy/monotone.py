"""A surface that never predicts worse for more kept or more bits.

At the points of a grid it is the least-squares fit among all that do not fall (bivariate isotonic
regression), between them bilinear in the logarithm of the keep ratio and in the bits. Knows
numbers only.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float64, Int64

from cutlayer.errors import ConfigError
from cutlayer.planner.accuracy.samples import Samples
from cutlayer.planner.accuracy.surface import AccuracySurface, Box

# of sums of some hundred weighted values, against the sum of their sizes
_ROUNDING = 1e-13


@final
@dataclass(frozen=True, eq=False)
class MonotoneSurface(AccuracySurface):
    """Values at the nodes of a grid, which rise with each axis, and lines between them.

    A bilinear patch between values that do not fall does not fall either.
    """

    keep_ratios: Float64[np.ndarray, " keep_ratio"]
    bits: Float64[np.ndarray, " bits"]
    values: Float64[np.ndarray, "keep_ratio bits"]

    @property
    def box(self) -> Box:
        """See `AccuracySurface.box`."""
        return Box(
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


def monotone_surface(samples: Samples) -> MonotoneSurface:
    """The surface through a full grid, each point weighted by its trainings.

    Raises ConfigError: a keep ratio was not measured with all numbers of bits.
    """
    grid = Grid.of(samples)
    missing = np.argwhere(np.isnan(grid.accuracy))
    if len(missing):
        row, column = missing[0]
        raise ConfigError(
            f"the profile has no point of keep ratio {grid.keep_ratios[row]:g} and"
            f" {grid.bits[column]:g} bits: a surface needs every keep ratio with every number of"
            f" bits, and {len(missing)} of {grid.accuracy.size} are missing; profile those"
        )
    return MonotoneSurface(grid.keep_ratios, grid.bits, isotonic(grid.accuracy, grid.weights))


@dataclass(frozen=True, eq=False)
class Grid:
    """Samples by keep ratio and bits, both rising; NaN and weight 0 where there is none."""

    keep_ratios: Float64[np.ndarray, " keep_ratio"]
    bits: Float64[np.ndarray, " bits"]
    accuracy: Float64[np.ndarray, "keep_ratio bits"]
    weights: Float64[np.ndarray, "keep_ratio bits"]
    places: tuple[Int64[np.ndarray, " point"], Int64[np.ndarray, " point"]]

    @classmethod
    def of(cls, samples: Samples) -> "Grid":
        """`places` are the row and the column of each sample."""
        keep_ratios, rows = np.unique(samples.keep_ratio, return_inverse=True)
        bits, columns = np.unique(samples.bits, return_inverse=True)
        accuracy = np.full((len(keep_ratios), len(bits)), np.nan)
        weights = np.zeros_like(accuracy)
        accuracy[rows, columns] = samples.accuracy
        weights[rows, columns] = samples.trainings
        return cls(keep_ratios, bits, accuracy, weights, (rows, columns))


def isotonic(
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
        upper = _best_upper_set(above)
        if above[upper].sum() > _ROUNDING * np.sum(weights * np.abs(values), where=block):
            blocks += [block & upper, block & ~upper]
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
