"""How often symbols occur, and what they cost, for independent Laplace values: closed forms.

For a planner, before any tensor exists. Real activations have heavier tails and rows and columns
that differ; both make them cheaper than here.
"""

import math

import numpy as np
from jaxtyping import Float64


def entropy(probabilities: Float64[np.ndarray, " outcome"]) -> float:
    """Entropy [bit] of one draw."""
    some = probabilities[probabilities > 0]
    return float(-(some * np.log2(some)).sum())


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


def dead_zone_probabilities(step: float, rounding: float) -> Float64[np.ndarray, " magnitude"]:
    """How often |q| is 0, 1, 2, ... for Laplace values of unit variance: P(|q| >= n) =
    exp(-sqrt(2) (n - rounding) step)."""
    largest = max(2, math.ceil(20.0 / step))
    beyond = np.exp(-math.sqrt(2.0) * (np.arange(1, largest + 1) - rounding) * step)
    return -np.diff(np.concatenate(([1.0], beyond, [0.0])))


def dead_zone_step(bits: float, rounding: float) -> float:
    """The step at which Laplace values of unit variance take `bits` each, signs included."""
    low, high = 1e-3, 100.0
    for _ in range(60):
        step = math.sqrt(low * high)
        magnitudes = dead_zone_probabilities(step, rounding)
        if signed_entropy(magnitudes) > bits:
            low = step
        else:
            high = step
    return high


def signed_entropy(magnitudes: Float64[np.ndarray, " magnitude"]) -> float:
    """Entropy [bit] of a symbol whose |q| is distributed so, its sign even."""
    return entropy(magnitudes) + float(magnitudes[1:].sum())
