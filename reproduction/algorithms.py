"""Algorithms 2 and 3 of the paper, as published and corrected.

For comparison: the planner's solvers are exact, much faster and do not fail.

Algorithm 2 is for (P1): cut, keep ratio and bits. As published it maximises what is to be
minimised, and ends at the slowest choice. Corrected it minimises, with multipliers that stay
positive and a quadratic penalty. Both search a lattice of keep ratios and whole bits at every open
cut.

Algorithm 3 is for (P2): bandwidth shares by linear programs. Knows the problem and its tangents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float64, Int64
from scipy.optimize import linprog
from scipy.sparse import csr_array, diags_array, hstack, vstack

from cutlayer.errors import ConfigError
from cutlayer.planner.bandwidth import (
    BandwidthProblem,
    BandwidthSolution,
    SolverStatus,
    solution_of,
    tangents_at,
    without_shares,
)
from cutlayer.planner.configuration import (
    ConfigurationChoice,
    ConfigurationProblem,
    Places,
    lowest_points,
    why_no_cut,
)

# Algorithm 2.


@dataclass(frozen=True)
class Iteration:
    """One step: its Lagrangian [s], its choice, whether that is feasible."""

    lagrangian_s: float
    choice: ConfigurationChoice
    feasible: bool


@dataclass(frozen=True)
class IteratedSolution:
    """What it found: the last choice, of which that it is the best is not known, and all before.

    `choice` is None if nothing is feasible; `reason` says why and what would change it.
    """

    status: SolverStatus
    choice: ConfigurationChoice | None
    reason: str
    history: tuple[Iteration, ...] = ()

    def chosen(self) -> ConfigurationChoice:
        """The choice. Raises ConfigError with the reason if it is none to go by."""
        if self.choice is None or self.status is SolverStatus.NOT_CONVERGED:
            raise ConfigError(self.reason)
        return self.choice


def _not_converged(history: Sequence[Iteration]) -> IteratedSolution:
    last = history[-1]
    kept = "keeps all limits" if last.feasible else "breaks a limit"
    reason = f"no convergence in {len(history)} iterations; the last choice {kept}"
    return IteratedSolution(SolverStatus.NOT_CONVERGED, last.choice, reason, tuple(history))


@dataclass(frozen=True, eq=False)
class Lattice:
    """Settings, by how much each passes the accuracy, and the delay at each cut.

    `room`: the part of its memory that the device with least has left; negative where it is short.
    """

    cuts: Int64[np.ndarray, " cut"]
    room: Float64[np.ndarray, " cut"]
    keep_ratio: Float64[np.ndarray, "bits point"]
    bits: Float64[np.ndarray, "bits point"]
    slack: Float64[np.ndarray, "bits point"]
    delay_s: Float64[np.ndarray, "cut bits point"]


def lattice(problem: ConfigurationProblem, points: int) -> Lattice:
    """`points` keep ratios, in equal proportions from end to end, with all whole bits."""
    keep_ratios = np.geomspace(*problem.box.keep_ratio, points)
    bits, rho = np.meshgrid(problem.box.whole_bits(), keep_ratios, indexing="ij")
    room = (1.0 - problem.need_bytes / problem.limit_bytes).min(axis=1)
    return Lattice(
        problem.cuts[problem.open],
        room[problem.open],
        rho,
        bits,
        problem.surface.at(rho, bits) - problem.least_accuracy,
        problem.delay_s(problem.compression.at(rho, bits))[problem.open],
    )


@final
@dataclass(frozen=True)
class PublishedAlgorithm2:
    """Maximise `tau + lambda_1 (A - A_th) + lambda_2 (room of memory)`, then `lambda += mu_k g`.

    The inner problem by grid search, of `points` keep ratios (the paper offers it); `mu_k` is
    `step / sqrt(k)`, its usual choice, which the paper leaves open. A multiplier starts at 0, grows
    while its constraint holds, and is never projected: it rewards what is accurate, large and slow.
    Room is a part of the memory, where (39) has bytes. Least cut and server load, which (39) has
    not, leave out cuts from the start. `CONVERGED` is by its own criterion: the Lagrangian changes
    by less than `tolerance` of itself, and all constraints hold.
    Source: SFT, Algorithm 2, eqs. (39), (40).
    """

    step: float = 1.0
    most_iterations: int = 60
    tolerance: float = 1e-4
    points: int = 513

    def solve(self, problem: ConfigurationProblem) -> IteratedSolution:
        """Its last choice, whatever it is worth."""
        if not problem.open.any():
            return IteratedSolution(SolverStatus.NO_CUT, None, why_no_cut(problem))
        grid = lattice(problem, self.points)
        accuracy, memory, before_s = 0.0, 0.0, np.inf
        history: list[Iteration] = []
        for number in range(1, self.most_iterations + 1):
            lagrangian_s = grid.delay_s + accuracy * grid.slack + memory * grid.room[:, None, None]
            row, *place = np.unravel_index(np.argmax(lagrangian_s), lagrangian_s.shape)
            at = tuple(place)
            value_s = float(lagrangian_s[row, *at])
            choice = problem.choice(
                int(grid.cuts[row]), float(grid.keep_ratio[at]), float(grid.bits[at])
            )
            history.append(Iteration(value_s, choice, problem.feasible(choice)))
            settled = abs(value_s - before_s) < self.tolerance * abs(value_s)
            if settled and history[-1].feasible:
                reason = "converged by its own criterion, which is no proof that it is good"
                return IteratedSolution(SolverStatus.CONVERGED, choice, reason, tuple(history))
            rate, before_s = self.step / np.sqrt(number), value_s
            accuracy += rate * float(grid.slack[at])
            memory += rate * float(grid.room[row])
        return _not_converged(history)


# a penalty that did not bring the violation below a quarter grows four times
_ENOUGH, _GROWTH = 0.25, 4.0

Values = Float64[np.ndarray, "..."]


@final
@dataclass(frozen=True)
class CorrectedAlgorithm2:
    """Minimise `tau / scale + sum ([lambda - c g]+^2 - lambda^2) / 2c`, then update lambda.

    It becomes `[lambda - c g]+`. The augmented Lagrangian of Powell, Hestenes and Rockafellar, for
    constraints `g >= 0` as in (39): accuracy above its limit, and room of memory as a part of it.
    `scale` is the longest delay of the lattice. The inner problem at each cut and number of bits:
    the best of `points` keep ratios, then finer grids between its neighbours. Without the quadratic
    term the choice goes to and fro between numbers of bits for ever; `penalty`, c, must be large
    enough to outweigh what fewer bits save, and grows where it is not.
    `CONVERGED`: the Lagrangian changes by less than `tolerance` of itself, and all limits are kept,
    accuracy within `accuracy_tolerance`.
    Source: SFT, Algorithm 2; D. P. Bertsekas, Constrained Optimization and Lagrange Multiplier
    Methods (1982), chapter 3.
    """

    penalty: float = 1e3
    most_iterations: int = 60
    tolerance: float = 1e-6
    accuracy_tolerance: float = 1e-6
    points: int = 65

    def solve(self, problem: ConfigurationProblem) -> IteratedSolution:
        """Its last choice; that of `CONVERGED` keeps all limits within the tolerance."""
        if not problem.open.any():
            return IteratedSolution(SolverStatus.NO_CUT, None, why_no_cut(problem))
        grid = lattice(problem, self.points)
        scale_s = float(grid.delay_s.max())
        multipliers, penalty = _Multipliers(0.0, 0.0), self.penalty
        before_s = violation = np.inf
        history: list[Iteration] = []
        for _ in range(self.most_iterations):
            inner = _Inner(problem, grid, multipliers, penalty, scale_s)
            row, keep_ratio, bits, value = inner.minimum()
            choice = problem.choice(int(grid.cuts[row]), keep_ratio, bits)
            feasible = problem.feasible(choice, self.accuracy_tolerance)
            history.append(Iteration(scale_s * value, choice, feasible))
            settled = abs(scale_s * value - before_s) < self.tolerance * scale_s
            if settled and feasible:
                reason = "converged; a faster choice is not ruled out"
                return IteratedSolution(SolverStatus.CONVERGED, choice, reason, tuple(history))
            before_s = scale_s * value
            slack, room = choice.accuracy - problem.least_accuracy, float(grid.room[row])
            now = max(multipliers.violation(slack, room, penalty))
            multipliers = multipliers.updated(slack, room, penalty)
            if now > _ENOUGH * violation:
                penalty *= _GROWTH
            violation = now
        return _not_converged(history)


@dataclass(frozen=True)
class _Multipliers:
    """Prices of accuracy and of memory, in parts of `scale` for a share; never negative."""

    accuracy: float
    memory: float

    def updated(self, slack: float, room: float, penalty: float) -> "_Multipliers":
        return _Multipliers(
            max(self.accuracy - penalty * slack, 0.0), max(self.memory - penalty * room, 0.0)
        )

    def violation(self, slack: float, room: float, penalty: float) -> tuple[float, float]:
        """How far each constraint is from holding, and its price from 0 where it has slack."""
        return (
            abs(min(slack, self.accuracy / penalty)),
            abs(min(room, self.memory / penalty)),
        )


@dataclass(frozen=True, eq=False)
class _Inner:
    """The augmented Lagrangian over cut, keep ratio and bits, in parts of `scale_s`."""

    problem: ConfigurationProblem
    grid: Lattice
    multipliers: _Multipliers
    penalty: float
    scale_s: float

    def minimum(self) -> tuple[int, float, float, float]:
        """Row of the cut, keep ratio, bits, and the least value there."""
        grid = self.grid
        coarse = self._value(grid.delay_s, grid.slack, grid.room[:, None, None])
        rows, columns = (axis.ravel() for axis in np.indices(coarse.shape[:2]))
        best = coarse.argmin(axis=2).ravel()
        low = grid.keep_ratio[columns, np.maximum(best - 1, 0)]
        high = grid.keep_ratio[columns, np.minimum(best + 1, grid.keep_ratio.shape[1] - 1)]
        bits = grid.bits[columns, 0]
        found = lowest_points(lambda rho: self._heights(rho, rows, bits), low, high)
        values = self._heights(found[:, None], rows, bits)[:, 0]
        place = int(np.argmin(values))
        return int(rows[place]), float(found[place]), float(bits[place]), float(values[place])

    def _heights(
        self, rho: Places, rows: Int64[np.ndarray, " each"], bits: Float64[np.ndarray, " each"]
    ) -> Places:
        """The value at each row's places, each row a cut and a number of bits."""
        problem, q = self.problem, np.repeat(bits[:, None], rho.shape[1], axis=1)
        delays_s = problem.delay_s(problem.compression.at(rho, q))
        own_s = delays_s[self.grid.cuts[rows] - 1, np.arange(len(rho))]
        slack = problem.surface.at(rho, q) - problem.least_accuracy
        return self._value(own_s, slack, self.grid.room[rows][:, None])

    def _value(self, delay_s: Values, slack: Values, room: Values) -> Values:
        accuracy = self._priced(self.multipliers.accuracy, slack)
        memory = self._priced(self.multipliers.memory, room)
        return np.asarray(delay_s / self.scale_s + accuracy + memory)

    def _priced(self, multiplier: float, constraint: Values) -> Values:
        left = np.maximum(multiplier - self.penalty * constraint, 0.0)
        return np.asarray((left**2 - multiplier**2) / (2 * self.penalty))


# Algorithm 3.


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
    steps go to and fro (`NOT_CONVERGED`). The caps must let the shares fill the
    bandwidth (`INFEASIBLE` if not). `OPTIMAL` is by its own criterion: by `tolerance` of the
    deadline, or a step as short. Source: SFT, Algorithm 3.
    """

    most_steps: int = 60
    tolerance: float = 1e-9

    def solve(
        self, problem: BandwidthProblem, start: Float64[np.ndarray, " device"] | None = None
    ) -> BandwidthSolution:
        """From `start`, positive where a device sends; even shares, or caps, if there is none."""
        shares = _beginning(problem, start)
        if isinstance(shares, BandwidthSolution):
            return shares
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
    below `tolerance` of the deadline. The bandwidth need not be used up.
    Source: SFT, Algorithm 3; J. Nocedal, S. Wright, Numerical Optimization (2006), section 4.1.
    """

    most_steps: int = 200
    tolerance: float = 1e-10

    def solve(
        self, problem: BandwidthProblem, start: Float64[np.ndarray, " device"] | None = None
    ) -> BandwidthSolution:
        """From `start`, positive where a device sends; even shares, or caps, if there is none."""
        shares = _beginning(problem, start)
        if isinstance(shares, BandwidthSolution):
            return shares
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


def _beginning(
    problem: BandwidthProblem, start: Float64[np.ndarray, " device"] | None
) -> Float64[np.ndarray, " device"] | BandwidthSolution:
    """The shares to begin with; the solution, where nobody needs any or they silence a device."""
    if not problem.served.any():
        return without_shares(problem)
    shares = _even(problem) if start is None else start
    if _silences(problem, shares):
        return solution_of(problem, shares, 0, SolverStatus.ZERO_SHARE)
    return shares


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
    whole = csr_array(np.append(now, 0.0)[np.newaxis] * now.size)
    earliest = float(tangents.delay_s[problem.idle].max(initial=0.0)) / deadline_s
    found = linprog(
        np.append(np.zeros_like(now), 1.0),
        A_ub=lines if whole_bandwidth else vstack([lines, whole]),
        b_ub=slope - delay if whole_bandwidth else np.append(slope - delay, now.size),
        A_eq=whole if whole_bandwidth else None,
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
