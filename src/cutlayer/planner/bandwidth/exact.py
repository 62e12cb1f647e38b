"""The shares of the band that make the slowest device as fast as can be, exactly.

Knows the deadline as the one unknown, and no rate law: `demand` gives shares for a deadline.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from cutlayer.planner.bandwidth.demand import Demand, demand_of
from cutlayer.planner.bandwidth.share_problem import ShareProblem
from cutlayer.planner.bandwidth.share_solution import (
    ShareSolution,
    Status,
    solution,
    without_shares,
)

_MOST_STEPS = 200
# Newton's last steps move the deadline by its rounding
_ROUNDING = 4 * float(np.finfo(np.float64).eps)
# a sum of thousands of shares is this close to the band where it should be the band
_FULL = 1 - 1e-12


def solve_shares(problem: ShareProblem) -> ShareSolution:
    """The best shares, with a bound that proves it; thousands of devices take milliseconds.

    Of all best shares, those that leave nobody slower than need be: each device that sends ends at
    one common time, or is at its cap and ends later. So band that the slowest device may not have
    goes to the next slowest, and so on; some stays unused only where all are at their caps.

    The shares needed for a time are convex and falling in it, so Newton from a time that is too
    short comes up to the right one, in a few steps however many devices.
    """
    demand = demand_of(problem)
    if not demand.served.any():
        return without_shares(problem)
    found = _common_time(demand, _below_caps(demand))
    # rounding may have left the sum 1e-16 above the band
    shares = found.shares / max(1.0, float(found.shares.sum()))
    return solution(problem, shares, found.steps, found.status)


@dataclass(frozen=True, eq=False)
class _Found:
    shares: Float64[np.ndarray, " device"]
    steps: int
    status: Status


def _below_caps(demand: Demand) -> Bool[np.ndarray, " device"]:
    """The devices that the common time keeps from their caps, or just at them.

    At a device's own time at its cap, and before, it is at the cap. Shares shrink as the common
    time grows, so the last such time at which they fill the band is found by bisection.
    """
    problem = demand.problem
    own_s = np.where(demand.served, problem.weights * (problem.fixed_s + demand.least_s), np.inf)
    times = np.unique(own_s[demand.served])
    filled, not_filled = -1, len(times)
    while not_filled - filled > 1:
        # the last time first: as a rule caps do not bind
        middle = not_filled - 1 if not_filled == len(times) else (filled + not_filled) // 2
        if _total(demand, own_s, times[middle]) >= _FULL:
            filled = middle
        else:
            not_filled = middle
    return demand.served & (own_s <= (times[filled] if filled >= 0 else -np.inf))


def _total(demand: Demand, own_s: Float64[np.ndarray, " device"], time_s: float) -> float:
    """The band that all need to end at a common time, or at their caps, if that is later."""
    problem = demand.problem
    seconds = np.maximum(time_s / problem.weights - problem.fixed_s, demand.least_s)
    seconds = np.where(own_s >= time_s, demand.least_s, seconds)
    return float(demand.needed(seconds, problem.most).shares.sum())


def _common_time(demand: Demand, free: Bool[np.ndarray, " device"]) -> _Found:
    """Newton for the time at which the `free` devices end and the shares fill the band.

    Time is counted from the latest end of fixed seconds among them: what is left for transfers is
    then a sum without cancellation, however small beside the fixed seconds.

    The step is that for the reciprocal of the shares' sum, which is nearly a line (and concave for
    proportional rates, so that it never goes too far). Where it does, plain steps follow, and the
    first of them comes back.
    """
    problem, weights = demand.problem, demand.problem.weights
    shares = np.where(demand.served, problem.most, 0.0)
    if not free.any():
        return _Found(shares, 0, Status.OPTIMAL)
    fixed_s = weights * problem.fixed_s
    lead_s = float(fixed_s[free].max()) - fixed_s
    too_short_s = past_s = float((weights * demand.least_s - lead_s)[free].max())
    band = 1 - float(shares[~free].sum())
    passed = False
    for step in range(1, _MOST_STEPS + 1):
        seconds = np.where(free, (lead_s + past_s) / weights, demand.least_s)
        needed = demand.needed(np.maximum(seconds, demand.least_s), shares)
        shares = needed.shares
        total = float(shares[free].sum())
        freed = np.where(free, shares / (needed.elasticity * seconds * weights), 0.0)
        move_s = (total - band) / float(freed.sum())
        # plain steps come up from below: one that goes back again is rounding
        settled = passed and move_s < 0
        passed = passed or move_s < 0
        if not passed:
            too_short_s = past_s
        longer = 1.0 if passed else total / band
        next_s = max(too_short_s, past_s + longer * move_s)
        if settled or abs(next_s - past_s) <= _ROUNDING * past_s:
            # what rounding left of the band, or took, changes everybody's time alike
            shares = np.clip(shares - move_s * freed, 0.0, problem.most)
            return _Found(shares, step, Status.OPTIMAL)
        past_s = next_s
    return _Found(shares, _MOST_STEPS, Status.NO_CONVERGENCE)
