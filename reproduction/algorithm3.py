"""Algorithm 3 of the paper, as published and corrected: bandwidth shares by linear programs.

Knows the problem and its tangents. For comparison: the planner's solver is exact, much faster and
does not fail.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float64
from scipy.optimize import linprog
from scipy.sparse import csr_array, diags_array, hstack, vstack

from cutlayer.planner.bandwidth import (
    BandwidthProblem,
    BandwidthSolution,
    SolverStatus,
    solution_of,
    tangents_at,
    without_shares,
)

# a step is kept if it gains this part of what the tangents promise; above the second part the
# region grows, below the third it shrinks
_KEPT, _GOOD, _BAD = 1e-4, 0.5, 0.1
_CHANGE, _WIDEST, _NARROWEST = 3.0, 9.0, 1e-9
# of linprog's, the one that says so
_LP_INFEASIBLE = 2
_PRECISE = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


@final
@dataclass(frozen=True)
class PublishedAlgorithm3:
    """As published: each step goes to the optimum of LP (44), however far.

    Where all devices end together and no share more than halves, this is Newton's method. Otherwise
    the tangents lie far below the delays: a share falls to 0 (`ZERO_SHARE`, an infinite delay) or
    steps go to and fro (`NOT_CONVERGED`). The caps must let the shares fill the band
    (`INFEASIBLE` if not; `require_whole_bandwidth` raises). `OPTIMAL` is by its own criterion: by
    `tolerance` of the deadline, or a step as short. Source: SFT, Algorithm 3.
    """

    most_steps: int = 60
    tolerance: float = 1e-9

    def solve(
        self, problem: BandwidthProblem, start: Float64[np.ndarray, " device"] | None = None
    ) -> BandwidthSolution:
        """From `start`, positive where a device sends; even shares, or caps, if there is none."""
        if not problem.served.any():
            return without_shares(problem)
        shares = _even(problem) if start is None else start
        if _silences(problem, shares):
            return solution_of(problem, shares, 0, SolverStatus.ZERO_SHARE)
        deadline_s, nothing = problem.deadline_s(shares), np.zeros_like(shares)
        for step in range(1, self.most_steps + 1):
            found = _linear_program(problem, shares, nothing, problem.most, whole_bandwidth=True)
            if found.status is not SolverStatus.OPTIMAL:
                return solution_of(problem, shares, step, found.status)
            settled = (
                abs(found.deadline_s - deadline_s) <= self.tolerance * deadline_s
                or float(np.linalg.norm(found.shares - shares)) <= self.tolerance
            )
            shares, deadline_s = found.shares, found.deadline_s
            if _silences(problem, shares):
                return solution_of(problem, shares, step, SolverStatus.ZERO_SHARE)
            if settled:
                return solution_of(problem, shares, step, SolverStatus.OPTIMAL)
        return solution_of(problem, shares, self.most_steps, SolverStatus.NOT_CONVERGED)


@final
@dataclass(frozen=True)
class TrustRegionAlgorithm3:
    """Corrected: shares change at most by a factor, which shrinks where the tangents deceive.

    A step is kept only if the true deadline falls by a fair part of what the linear program
    promises, so deadlines only fall; the program's promise bounds what is left to gain, and ends it
    below `tolerance` of the deadline. The band need not be used up.
    Source: SFT, Algorithm 3; J. Nocedal, S. Wright, Numerical Optimization (2006), section 4.1.
    """

    most_steps: int = 200
    tolerance: float = 1e-10

    def solve(
        self, problem: BandwidthProblem, start: Float64[np.ndarray, " device"] | None = None
    ) -> BandwidthSolution:
        """From `start`, positive where a device sends; even shares, or caps, if there is none."""
        if not problem.served.any():
            return without_shares(problem)
        shares = _even(problem) if start is None else start
        if _silences(problem, shares):
            return solution_of(problem, shares, 0, SolverStatus.ZERO_SHARE)
        deadline_s, factor = problem.deadline_s(shares), 1.0
        for step in range(1, self.most_steps + 1):
            low, high = shares / (1 + factor), np.minimum(shares * (1 + factor), problem.most)
            found = _linear_program(problem, shares, low, high, whole_bandwidth=False)
            if found.status is not SolverStatus.OPTIMAL:
                return solution_of(problem, shares, step, found.status)
            promised_s = deadline_s - found.deadline_s
            if promised_s <= self.tolerance * deadline_s:
                return solution_of(problem, shares, step, SolverStatus.OPTIMAL)
            reached_s = problem.deadline_s(found.shares)
            gained = (deadline_s - reached_s) / promised_s
            if gained >= _KEPT:
                shares, deadline_s = found.shares, reached_s
            if gained > _GOOD:
                factor = min(_CHANGE * factor, _WIDEST)
            elif gained < _BAD:
                factor /= _CHANGE
            if factor < _NARROWEST:
                return solution_of(problem, shares, step, SolverStatus.NOT_CONVERGED)
        return solution_of(problem, shares, self.most_steps, SolverStatus.NOT_CONVERGED)


@dataclass(frozen=True, eq=False)
class _Found:
    shares: Float64[np.ndarray, " device"]
    deadline_s: float
    status: SolverStatus


def _even(problem: BandwidthProblem) -> Float64[np.ndarray, " device"]:
    """Even shares for those that send, or their caps."""
    served = problem.served
    return np.where(served, np.minimum(problem.most, 1 / served.sum()), 0.0)


def _silences(problem: BandwidthProblem, shares: Float64[np.ndarray, " device"]) -> bool:
    """Whether a device that sends has no share, and so an infinite delay without tangents."""
    return bool((shares[problem.served] <= 0).any())


def _linear_program(
    problem: BandwidthProblem,
    shares: Float64[np.ndarray, " device"],
    low: Float64[np.ndarray, " device"],
    high: Float64[np.ndarray, " device"],
    *,
    whole_bandwidth: bool,
) -> _Found:
    """The least deadline above all tangents at `shares`, and where it is: (44).

    Its unknowns are shares as parts of those now, and the deadline as a part of that now, so that
    all are near 1 and the solver's absolute tolerances are relative ones.
    """
    served = problem.served
    now, deadline_s = shares[served], problem.deadline_s(shares)
    tangents = tangents_at(problem, np.where(served, shares, 1.0))
    delay, slope = tangents.delay_s[served] / deadline_s, tangents.slope[served] * now / deadline_s
    lines = hstack([diags_array(slope), csr_array(-np.ones((now.size, 1)))])
    band = csr_array(np.append(now, 0.0)[np.newaxis] * now.size)
    earliest = float(tangents.delay_s[problem.idle].max(initial=0.0)) / deadline_s
    found = linprog(
        np.append(np.zeros_like(now), 1.0),
        A_ub=lines if whole_bandwidth else vstack([lines, band]),
        b_ub=slope - delay if whole_bandwidth else np.append(slope - delay, now.size),
        A_eq=band if whole_bandwidth else None,
        b_eq=[now.size] if whole_bandwidth else None,
        bounds=np.column_stack(
            [np.append(low[served] / now, earliest), np.append(high[served] / now, np.inf)]
        ),
        method="highs",
        options=_PRECISE,
    )
    if found.x is None:
        infeasible = found.status == _LP_INFEASIBLE
        status = SolverStatus.INFEASIBLE if infeasible else SolverStatus.NOT_CONVERGED
        return _Found(shares, deadline_s, status)
    moved = np.zeros_like(shares)
    moved[served] = np.minimum(found.x[:-1] * now, problem.most[served])
    moved /= max(1.0, float(moved.sum()))
    return _Found(moved, float(found.x[-1]) * deadline_s, SolverStatus.OPTIMAL)
