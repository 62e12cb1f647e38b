"""What the paper's text says of Fig. 4, judged by fits through measured accuracies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from jaxtyping import Float

from cutlayer.planner.accuracy import COEFFICIENTS, Fit, fit_cubic
from cutlayer.profiling.training import standard_error
from reproduction.claims import Claim, Verdict, judge_at_most
from reproduction.fig4_fit import Falling, falling
from reproduction.fig7_grid import Point

# "a mean squared error of less than 0.26%"
MEAN_SQUARE = Decimal("0.26")
BOX_KEEP_RATIOS = (0.1, 0.2, 0.3, 0.5)
BOX_BITS = (2, 3, 4, 6)
# around the paper's (0.2, 3); outside of it accuracy falls off a cliff that no cubic follows
BOX = tuple(Point(keep_ratio, bits) for keep_ratio in BOX_KEEP_RATIOS for bits in BOX_BITS)


@dataclass(frozen=True, eq=False)
class Surface:
    """(35) through the accuracies [%] of `points`."""

    name: str
    points: tuple[Point, ...]
    measured: Float[np.ndarray, " point"]
    fit: Fit
    falling: Falling
    grid: Float[np.ndarray, "bits keep_ratio"]

    @property
    def keep_ratios(self) -> tuple[float, float]:
        """The smallest and the largest."""
        ratios = [point.keep_ratio for point in self.points]
        return min(ratios), max(ratios)

    @property
    def bits(self) -> tuple[float, float]:
        """The fewest and the most."""
        bits = [float(point.bits) for point in self.points]
        return min(bits), max(bits)


@dataclass(frozen=True)
class Seen:
    """The fits through all points and through those of the box, from so many test samples."""

    whole: Surface
    box: Surface
    test_samples: int


def surface(name: str, points: Sequence[Point], accuracy: Mapping[Point, float]) -> Surface:
    """Fit (35) to the accuracies [%] of `points`."""
    rho, q = places(points)
    measured = np.array([accuracy[point] for point in points])
    fitted = fit_cubic(rho, q, measured)
    ranges = (float(rho.min()), float(rho.max())), (float(q.min()), float(q.max()))
    shares, grid = falling(fitted, *ranges)
    return Surface(name, tuple(points), measured, fitted, shares, grid)


def places(
    points: Sequence[Point],
) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"]]:
    """Keep ratio and bits of each point, as arrays."""
    rho = np.array([point.keep_ratio for point in points])
    return rho, np.array([float(point.bits) for point in points])


def claims_of(seen: Seen) -> tuple[Claim, ...]:
    """The text's one claim, for either fit."""
    return tuple(_mean_square(each, seen.test_samples) for each in (seen.whole, seen.box))


def _mean_square(given: Surface, test_samples: int) -> Claim:
    """Accuracies are shares here: a mean square of 0.26 % is a root of 5.1 points."""
    ours = given.fit.mean_square / 100
    constant = float(np.nanvar(given.measured)) / 100
    verdict = judge_at_most(MEAN_SQUARE, ours, reach=constant)
    largest = float(np.nanmax(np.abs(given.fit.residuals)))
    noise = standard_error(float(np.nanmean(given.measured)), test_samples)
    reason = (
        f"{COEFFICIENTS} coefficients through {np.isfinite(given.measured).sum()} trainings: root"
        " mean square "
        f"{100 * (ours / 100) ** 0.5:.1f} points, largest {largest:.1f}, each point left out in "
        f"turn {given.fit.left_out_root:.1f}, chance on {test_samples} test samples {noise:.1f}; "
        f"0.26 % of squared shares is a root of 5.1 points, and one accuracy for all would leave "
        f"{constant:.2f} %"
    )
    if verdict is Verdict.NOT_REPRODUCED and ours <= float(MEAN_SQUARE):
        reason += ", so the bound could not have been missed"
    shares = given.falling
    return Claim(
        f"mean squared error of (35), {given.name}",
        f"less than {MEAN_SQUARE} %",
        MEAN_SQUARE,
        ours,
        "%",
        verdict,
        f"{reason}. The surface falls as more is kept on {100 * shares.by_keep_ratio:.0f} % of it, "
        f"as bits are added on {100 * shares.by_bits:.0f} %, either on {100 * shares.either:.0f}"
        " %.",
    )
