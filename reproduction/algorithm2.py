"""Algorithm 2 of the paper, as published and corrected, for (P1): cut, keep ratio and bits.

As published it maximises what is to be minimised, and ends at the slowest choice. Corrected it
minimises, with multipliers that stay positive and a quadratic penalty. Both search a lattice of
keep ratios and whole bits at every open cut. The planner uses neither: its solver is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float64, Int64

from cutlayer.errors import ConfigError
from cutlayer.planner.bandwidth import SolverStatus
from cutlayer.planner.configuration import (
    ConfigurationChoice,
    ConfigurationProblem,
    Places,
    lowest_points,
    why_no_cut,
)


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
