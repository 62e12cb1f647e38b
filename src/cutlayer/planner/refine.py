"""Shares solved again with the seconds that a closed form cannot know: queues, and what overlaps.

Knows the timeline's answer and the solver's, and keeps whichever decision was faster.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from cutlayer.channel.curves import Curves
from cutlayer.planner.allocation import best_shares
from cutlayer.planner.crowd import crowd_of
from cutlayer.planner.decision import Decision, Limits
from cutlayer.planner.estimate import amounts_of
from cutlayer.planner.forecast import later_round
from cutlayer.planner.observed import Observed, share_problem
from cutlayer.planner.workload import Workload
from cutlayer.schemes.scheme import DeviceOrder

# the first moves shares most; after four they go to and fro
_TIMES = 4


@dataclass(frozen=True)
class Found:
    """A decision and its later rounds' delay on the timeline [s]."""

    decision: Decision
    delay_s: float


def refined(workload: Workload, limits: Limits, found: Found, curves: Curves) -> Found:
    """The same decision with better shares, if any are found; never a slower one.

    Each device's fixed seconds are moved by how far the timeline is from the sum of its steps, so
    that it takes all of them to be played.
    """
    crowd = crowd_of(workload, found.decision, curves)
    if found.decision.scheme.devices is DeviceOrder.IN_TURN or crowd.stands_for > 1.0:
        return found
    best, decision = found, found.decision
    observed = amounts_of(workload, decision).observed()
    seen = later_round(workload, decision, curves)
    for _ in range(_TIMES):
        moved = _moved(observed, decision, curves, seen.device_delay_s)
        shares = best_shares(moved, curves, decision.rules, limits.most_share)
        decision = replace(decision, shares=shares)
        seen = later_round(workload, decision, curves)
        if seen.delay_s < best.delay_s:
            best = Found(decision, seen.delay_s)
    return best


def _moved(
    observed: Observed,
    decision: Decision,
    curves: Curves,
    seen_s: Float64[np.ndarray, " device"],
) -> Observed:
    """`observed` with the seconds of computing at which the closed form gives what was seen."""
    problem = share_problem(observed, curves, decision.rules, np.ones(len(seen_s)))
    closed_s = problem.delays_s(np.array(decision.shares))
    fixed_s = np.maximum(problem.fixed_s + seen_s - closed_s, 0.0)
    return replace(observed, compute_s=observed.compute_s + fixed_s - problem.fixed_s)
