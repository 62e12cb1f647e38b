"""Where the paper's accuracy model falls, though more is kept or more bits are sent.

Knows numbers only; the model and its fit are the planner's.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from cutlayer.planner.accuracy import Fit

_STEPS = 201
# a flat surface does not fall: values are sums of ten terms of some hundreds in double precision
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Falling:
    """Parts of a box where the surface falls: as the keep ratio grows, as the bits grow, either."""

    by_keep_ratio: float
    by_bits: float
    either: float


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
