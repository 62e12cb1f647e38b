"""The paper's accuracy model: a cubic in keep ratio and bits, fitted by least squares.

Knows numbers only; where they were measured is the caller's. It may fall where more is kept: see
`monotone` for one that does not.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float, Float64

from cutlayer.planner.accuracy.surface import AccuracySurface, Box

COEFFICIENTS = 10


@dataclass(frozen=True, eq=False)
class Fit:
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
        return np.asarray(terms(keep_ratio, bits) @ self.coefficients)

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
    sampled: Box

    @property
    def box(self) -> Box:
        """See `AccuracySurface.box`."""
        return self.sampled

    def at(
        self, keep_ratio: Float64[np.ndarray, "*point"], bits: Float64[np.ndarray, "*point"]
    ) -> Float64[np.ndarray, "*point"]:
        """See `AccuracySurface.at`."""
        self.sampled.check(keep_ratio, bits)
        return np.asarray(terms(keep_ratio, bits) @ self.coefficients)


def terms(
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


def fit(
    keep_ratio: Float[np.ndarray, " point"],
    bits: Float[np.ndarray, " point"],
    values: Float[np.ndarray, " point"],
) -> Fit:
    """The least-squares coefficients. Points of NaN values are left aside; their residuals are NaN.

    A point that alone decides a coefficient (leverage 1) says nothing when left out: infinity.
    """
    known = np.isfinite(values)
    matrix = terms(keep_ratio, bits)
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
    return Fit(coefficients, residuals, left_out)
