"""A deadline that no shares can beat: the dual bound of the min-max problem.

Knows the problem, and nothing of how shares were found: it holds at any shares and any multipliers,
and is tight at the best ones, so that a wrong solver shows a gap.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from cutlayer.planner.bandwidth.share_problem import ShareProblem


def lower_bound_s(problem: ShareProblem, shares: Float64[np.ndarray, " device"]) -> float:
    """A lower bound of the weighted deadline [s] of the devices that can be served.

    The larger of two: what each device takes at its cap, and the dual bound whose tangents touch at
    `shares`, with the price of band at which none of them would rather have another share. Infinite
    where no device can be served.
    """
    reached = ~problem.unserved
    if not reached.any():
        return float("inf")
    alone_s = float((problem.weights * (problem.fixed_s + problem.at_cap_s))[reached].max())
    if not problem.served.any():
        return alone_s
    tangents = tangents_at(problem, np.where(shares > 0, shares, problem.most / problem.devices))
    # a second of deadline frees 1 / -slope of band: with these multipliers all tangents are level
    freed = np.divide(-1.0, tangents.slope, out=np.zeros_like(shares), where=problem.served)
    price = 1.0 / float(freed.sum())
    return max(alone_s, tangents.dual_bound_s(freed * price, price))


@dataclass(frozen=True, eq=False)
class Tangents:
    """Lines below the weighted delays of a problem's devices, which touch them at `points`."""

    most: Float64[np.ndarray, " device"]
    points: Float64[np.ndarray, " device"]
    delay_s: Float64[np.ndarray, " device"]
    slope: Float64[np.ndarray, " device"]

    def dual_bound_s(self, multipliers: Float64[np.ndarray, " device"], price: float) -> float:
        """`sum_n min_b (m[n] line_n(b) + price b[n]) - price` over `0 <= b <= most`.

        At most the least deadline for any multipliers m >= 0 that sum to 1 (0 for devices that
        cannot be served), and any price >= 0 [s for the whole band]: delays are convex, so their
        lines lie below them, and a line is least at one of its ends.
        Source: S. Boyd, L. Vandenberghe, Convex Optimization (2004), section 5.1.3.
        """
        delay_s = np.multiply(multipliers, self.delay_s, where=multipliers > 0, out=0 * self.points)
        slope = np.multiply(multipliers, self.slope, where=multipliers > 0, out=0 * self.points)
        slope += price
        least_s = delay_s + price * self.points
        least_s += np.minimum(-slope * self.points, slope * (self.most - self.points))
        return float(least_s.sum()) - price


def tangents_at(problem: ShareProblem, points: Float64[np.ndarray, " device"]) -> Tangents:
    """The lines that touch at any positive shares."""
    seconds, slope = problem.transfers(points)
    return Tangents(
        problem.most,
        points,
        problem.weights * (problem.fixed_s + seconds),
        problem.weights * slope,
    )
