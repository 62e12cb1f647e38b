"""Algorithm 2 as printed: it maximises what is to be minimised, and ends at the slowest choice.

For reproducing the paper; `algorithm2_mended` is what it should be, `exact` is exact.
"""

from dataclasses import dataclass
from typing import final

import numpy as np

from cutlayer.planner.configuration import (
    ConfigurationProblem,
    ConfigurationSolution,
    ConfigurationStatus,
    Iteration,
    not_converged,
    why_no_cut,
)
from reproduction.lattice import lattice


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

    def solve(self, problem: ConfigurationProblem) -> ConfigurationSolution:
        """Its last choice, whatever it is worth."""
        if not problem.open.any():
            return ConfigurationSolution(ConfigurationStatus.NO_CUT, None, why_no_cut(problem))
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
                return ConfigurationSolution(
                    ConfigurationStatus.CONVERGED, choice, reason, tuple(history)
                )
            rate, before_s = self.step / np.sqrt(number), value_s
            accuracy += rate * float(grid.slack[at])
            memory += rate * float(grid.room[row])
        return not_converged(history)
