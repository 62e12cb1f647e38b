"""How many bits the paper's stages take on independent Laplace values: closed forms for a planner.

Real activations have heavier tails; there the largest magnitude stretches the points, the levels
are less even and take fewer bits than here. Knows no tensor.
"""

import math

import numpy as np
from jaxtyping import Float64

from cutlayer.codec.frequencies import FREQUENCY_SUM
from cutlayer.codec.rans import lane_count

# what a lane's state takes beyond what it carries, on average: see rans.py
BITS_PER_LANE = 24


def gap_bits(count: int, universe: int) -> float:
    """Golomb-Rice bits [bit] of a random set of `count` out of `universe` positions.

    With p the share of the smaller of set and complement, each of its elements takes
    `r + 1 / (1 - (1 - p)^(2^r))` bits; the least over r.
    """
    coded = min(count, universe - count)
    if coded <= 0:
        return 0.0
    stay = 1.0 - coded / universe
    return coded * min(r + 1.0 / (1.0 - math.pow(stay, 2**r)) for r in range(32))


def level_probabilities(kept: int, intervals: int) -> Float64[np.ndarray, " point"]:
    """How often each point is taken when `kept` Laplace values of a sample are quantised.

    Above the smallest kept magnitude they are exponential of scale 1; the largest of K lies at
    ln K + 0.577 on average, which E intervals of width d divide. Stochastic rounding weighs a point
    with a triangle: P_0 = 1 - (1 - exp(-d)) / d, P_e = exp(-e d) (exp(d) + exp(-d) - 2) / d.
    """
    span = math.log(max(kept, 1)) + float(np.euler_gamma)
    d = span / intervals
    e = np.arange(intervals + 1)
    weights: Float64[np.ndarray, " point"] = np.exp(-e * d) * (2.0 * math.cosh(d) - 2.0) / d
    weights[0] = 1.0 + math.expm1(-d) / d
    probabilities: Float64[np.ndarray, " point"] = weights / weights.sum()
    return probabilities


def level_bits(count: int, probabilities: Float64[np.ndarray, " point"]) -> float:
    """Bits [bit] of the table and the rANS code of `count` levels, the lanes' states included.

    A point is present, and the table has an entry for it, with 1 - (1 - p)^count; the code is that
    of the levels' own shares, which is shorter than their entropy by 0.72 bit for each point
    present beyond the first (Miller's correction) and never above log2(count) bits each.
    """
    present = -np.expm1(count * np.log1p(-probabilities))
    entropy_bits = float(-(probabilities * np.log2(probabilities)).sum())
    fitted_bits = count * entropy_bits - (float(present.sum()) - 1.0) / (2.0 * math.log(2.0))
    shares = np.maximum(probabilities, 1.0 / count)
    entry_bytes = present * np.where(shares * FREQUENCY_SUM < 128, 1, 2)
    # a run of zeros, two bytes, wherever a point that is present follows one that is not
    run_bytes = 2.0 * present[1:] * (1.0 - present[:-1])
    table_bits = 8.0 * float(entry_bytes.sum() + run_bytes.sum())
    code_bits = min(max(fitted_bits, 0.0), count * math.log2(count))
    return table_bits + code_bits + BITS_PER_LANE * lane_count(count)
