"""How many bits the paper's stages take on independent Laplace values: closed forms for a planner.

Real activations have heavier tails; there the largest magnitude stretches the points, the levels
are less even and take fewer bits than here. Knows no tensor.
"""

import math

import numpy as np
from jaxtyping import Float64

from cutlayer.codec.rans import lane_count

# what a lane's state takes beyond what it carries, on average: see rans.py
BITS_PER_LANE = 24


def gap_bits(count: float, universe: float) -> float:
    """Golomb-Rice bits [bit] of a random set of `count` out of `universe` positions.

    With p the share of the smaller of set and complement, each of its elements takes
    `r + 1 / (1 - (1 - p)^(2^r))` bits; the least over r.
    """
    coded = min(count, universe - count)
    if coded <= 0:
        return 0.0
    stay = 1.0 - coded / universe
    return coded * min(r + 1.0 / (1.0 - stay ** (2**r)) for r in range(32))


def level_entropy_bits(kept: float, intervals: int) -> float:
    """Entropy [bit] of one level when `kept` Laplace values of a sample are quantised.

    Above the smallest kept magnitude they are exponential of scale 1; the largest of K lies at
    ln K + 0.577 on average, which E intervals of width d divide. Stochastic rounding weighs a point
    with a triangle: P_0 = 1 - (1 - exp(-d)) / d, P_e = exp(-e d) (exp(d) + exp(-d) - 2) / d.
    """
    span = math.log(max(kept, 1.0)) + float(np.euler_gamma)
    d = span / intervals
    e = np.arange(intervals + 1)
    weights: Float64[np.ndarray, " point"] = np.exp(-e * d) * (2.0 * math.cosh(d) - 2.0) / d
    weights[0] = 1.0 + math.expm1(-d) / d
    # the last point has only the lower half of its triangle, and nothing lies above it
    probabilities = weights / weights.sum()
    present = probabilities[probabilities > 0]
    return float(-(present * np.log2(present)).sum())


def symbol_bits(count: float, entropy_bits: float) -> float:
    """rANS bits [bit] of `count` symbols of the given entropy, the lanes' states included."""
    return count * entropy_bits + BITS_PER_LANE * lane_count(int(count))
