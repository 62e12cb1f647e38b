"""The lowest points of many valleys, and where many conditions end, by ever finer grids.

Knows no problem. Grids ask for many values in few calls, where bisection asks for one at a time.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float64

_SECTIONS = 16
# two of sixteen sections remain: 8^-10 is 1e-9, and a valley is flat below the root of rounding
_VALLEY_ROUNDS = 10
# one remains: 16^-13 is 2e-16
_END_ROUNDS = 13

Places = Float64[np.ndarray, "each place"]
Each = Float64[np.ndarray, " each"]


def lowest(heights: Callable[[Places], Places], low: Each, high: Each) -> Each:
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


def last_kept(
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
