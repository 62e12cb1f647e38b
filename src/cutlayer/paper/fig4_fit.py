"""The paper's accuracy model: a cubic in keep ratio and bits, fitted by least squares.

Knows numbers only; where they were measured is the caller's.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

COEFFICIENTS = 10
_STEPS = 201
# a flat surface does not fall: values are sums of ten terms of some hundreds in double precision
_ROUNDING = 1e-9


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


@dataclass(frozen=True)
class Falling:
    """Parts of a box where the surface falls: as the keep ratio grows, as the bits grow, either."""

    by_keep_ratio: float
    by_bits: float
    either: float


def terms(
    keep_ratio: Float[np.ndarray, " point"], bits: Float[np.ndarray, " point"]
) -> Float[np.ndarray, "point 10"]:
    """1, rho, q, rho^2, q^2, rho q, rho^3, q^3, rho^2 q, rho q^2. Source: SFT eq. (35).

    The text calls q the quantisation level; Fig. 7 and this count bits.
    """
    rho, q = keep_ratio, bits
    columns = (
        np.ones_like(rho), rho, q, rho**2, q**2, rho * q, rho**3, q**3, rho**2 * q, rho * q**2
    )  # fmt: skip
    return np.stack(columns, axis=1)


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


def falling(
    surface: Fit, keep_ratios: tuple[float, float], bits: tuple[float, float]
) -> tuple[Falling, Float[np.ndarray, "bits keep_ratio"]]:
    """Where the surface falls between two keep ratios and two numbers of bits; both should help.

    Each share is one of the steps along one axis of a fine grid; `either` counts grid points from
    which a step along one of them goes down. Also the values on that grid.
    """
    rho, q = np.linspace(*keep_ratios, _STEPS), np.linspace(*bits, _STEPS)
    values = np.stack([surface.at(rho, np.full_like(rho, each)) for each in q])
    down = falls(values)
    by_rho = np.diff(values, axis=1) < -_ROUNDING
    by_bits = np.diff(values, axis=0) < -_ROUNDING
    return Falling(float(by_rho.mean()), float(by_bits.mean()), float(down.mean())), values


def falls(values: Float[np.ndarray, "bits keep_ratio"]) -> Bool[np.ndarray, "bits keep_ratio"]:
    """Grid points from which a step along one of the axes goes down."""
    down = np.zeros(values.shape, dtype=bool)
    down[:, :-1] |= np.diff(values, axis=1) < -_ROUNDING
    down[:-1] |= np.diff(values, axis=0) < -_ROUNDING
    return down
