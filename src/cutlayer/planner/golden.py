"""The lowest point of many valleys at once, by golden sections. Knows no problem."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

_PART = (5.0**0.5 - 1.0) / 2.0
# 0.618^45 is 4e-10: a valley is flat to within rounding over the root of it, 1.5e-8
_SECTIONS = 45

Points = Float64[np.ndarray, " valley"]


def golden_sections(heights: Callable[[Points], Points], low: Points, high: Points) -> Points:
    """Where each of the functions is lowest between its `low` and `high`.

    `heights` has the height of each at a place of its own. Right where there is one valley between
    the two; else in one of them. J. Kiefer, Sequential minimax search for a maximum (1953).
    """
    for _ in range(_SECTIONS):
        width = _PART * (high - low)
        left, right = high - width, low + width
        falls = heights(left) > heights(right)
        low, high = np.where(falls, left, low), np.where(falls, high, right)
    return (low + high) / 2
