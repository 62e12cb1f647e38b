"""What a solver of the shares answers with, whichever it is.

Knows the problem and the certificate, and no solver.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Bool, Float64, Int

from cutlayer.planner.bandwidth.certificate import lower_bound_s
from cutlayer.planner.bandwidth.share_problem import ShareProblem

# devices within one part in 10^9 of the deadline, or of their cap, are said to be at it
_TIE = 1e-9


class Status(StrEnum):
    """How a solver ended."""

    OPTIMAL = "optimal"
    NO_CONVERGENCE = "no convergence"
    ZERO_SHARE = "a device that sends got no share"
    INFEASIBLE = "no feasible shares"
    NOBODY_SERVED = "no device can be served"


class LimitedBy(StrEnum):
    """Why the round is not shorter: what would have to grow, or shrink."""

    BAND = "the band"
    CAP = "a device's cap"
    FIXED = "the fixed seconds of a device that sends nothing"
    NOTHING = "no device"


@dataclass(frozen=True, eq=False)
class ShareSolution:
    """Shares of the band, and how good they are.

    `deadline_s`: the largest `weights * tau` of the devices that can be served (tau itself where
    weights are ones); infinite where one of them got no share. `binding`: who ends then.
    `idle` send nothing, `unserved` cannot be reached and are left out of the deadline; both have a
    share of 0. `lower_bound_s`: no shares give a deadline below it, by a dual bound that is right
    whatever the solver did. `steps`: of the outer loop.
    """

    shares: Float64[np.ndarray, " device"]
    deadline_s: float
    binding: Int[np.ndarray, " binding"]
    limited_by: LimitedBy
    idle: Int[np.ndarray, " idle"]
    unserved: Int[np.ndarray, " unserved"]
    lower_bound_s: float
    steps: int
    status: Status

    @property
    def gap(self) -> float:
        """How far the deadline can be from the best at most, as a part of it.

        A few 1e-16 below 0 where both are rounded.
        """
        if self.deadline_s == self.lower_bound_s:
            return 0.0
        if not np.isfinite(self.deadline_s):
            return float("inf")
        return (self.deadline_s - self.lower_bound_s) / self.deadline_s

    @property
    def unused(self) -> float:
        """The part of the band that nobody has."""
        return max(0.0, 1.0 - float(self.shares.sum()))


def solution(
    problem: ShareProblem,
    shares: Float64[np.ndarray, " device"],
    steps: int,
    status: Status,
) -> ShareSolution:
    """What these shares come to."""
    unserved = problem.unserved
    idle = problem.idle
    delays = problem.weights * problem.delays_s(shares)
    deadline_s = problem.deadline_s(shares)
    binding = ~unserved & (delays >= deadline_s * (1 - _TIE))
    return ShareSolution(
        shares=shares,
        deadline_s=deadline_s,
        binding=np.flatnonzero(binding),
        limited_by=_limited_by(
            idle[binding], (shares >= problem.most * (1 - _TIE))[binding], problem.most[binding]
        ),
        idle=np.flatnonzero(idle),
        unserved=np.flatnonzero(unserved),
        lower_bound_s=lower_bound_s(problem, shares),
        steps=steps,
        status=status,
    )


def without_shares(problem: ShareProblem) -> ShareSolution:
    """Where no device has a use for a share: all are idle or cannot be served."""
    nobody = bool(problem.unserved.all())
    status = Status.NOBODY_SERVED if nobody else Status.OPTIMAL
    return solution(problem, np.zeros(problem.devices), 0, status)


def _limited_by(
    idle: Bool[np.ndarray, " binding"],
    at_cap: Bool[np.ndarray, " binding"],
    most: Float64[np.ndarray, " binding"],
) -> LimitedBy:
    """By the devices that end last; one cap below the band is enough: more band would not help."""
    if not idle.size:
        return LimitedBy.NOTHING
    if idle.any():
        return LimitedBy.FIXED
    return LimitedBy.CAP if (at_cap & (most < 1)).any() else LimitedBy.BAND
