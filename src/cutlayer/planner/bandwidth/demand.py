"""The share that each device needs to get its bits through in given seconds.

Knows one device at a time, all at once: nothing of the band that they divide.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from cutlayer.planner.bandwidth.share_problem import ShareProblem

_MOST_STEPS = 100
# a share's relative step whose square is below rounding: the step after it would be nothing
_LAST_STEP = 1e-8
_ROUNDING = 1e-14
# a step goes at most by this much in the logarithm: a factor of a thousand
_LONGEST_STEP = 7.0


@dataclass(frozen=True, eq=False)
class Needed:
    """Shares, and how many per cent more seconds a per cent less share costs."""

    shares: Float64[np.ndarray, " device"]
    elasticity: Float64[np.ndarray, " device"]


@dataclass(frozen=True, eq=False)
class Demand:
    """The inverse of the seconds on a share, for the devices that are `served`; 0 for the others.

    `least_s`: seconds at the cap. `proportional`: all rates are, so that the inverse is closed.
    """

    problem: ShareProblem
    served: Bool[np.ndarray, " device"]
    least_s: Float64[np.ndarray, " device"]
    proportional: bool

    def needed(
        self, seconds: Float64[np.ndarray, " device"], guess: Float64[np.ndarray, " device"]
    ) -> Needed:
        """The shares on which transfers take `seconds`, each at least `least_s`.

        `guess`: shares to search from, positive where served.
        """
        if self.proportional:
            share_seconds = self.problem.most * self.least_s
            shares = np.divide(
                share_seconds, seconds, out=np.zeros_like(seconds), where=self.served
            )
            return Needed(np.minimum(shares, self.problem.most), np.ones_like(seconds))
        return self._searched(seconds, guess)

    def _searched(
        self, seconds: Float64[np.ndarray, " device"], guess: Float64[np.ndarray, " device"]
    ) -> Needed:
        """Newton in the logarithms of share and seconds, kept between bounds.

        There a proportional rate is a line, and a Shannon rate convex. The bounds: seconds times
        share grows with the share (rates are concave), so that share times seconds over those
        wanted lies between the share and the one looked for.
        """
        low, high = np.zeros_like(seconds), self.problem.most
        shares = np.where(self.served, guess, 1.0)
        for _ in range(_MOST_STEPS):
            ratio, elasticity = self._ratio(shares, seconds)
            bound = shares * ratio
            low = np.where(ratio >= 1, np.maximum(low, bound), low)
            high = np.where(ratio <= 1, np.minimum(high, bound), high)
            step = np.clip(np.log(ratio) / elasticity, -_LONGEST_STEP, _LONGEST_STEP)
            shares = np.clip(shares * np.exp(step), low, high)
            settled = (np.abs(step) <= _LAST_STEP) | (np.abs(ratio - 1) <= _ROUNDING)
            if settled.all():
                break
        return Needed(np.where(self.served, shares, 0.0), elasticity)

    def _ratio(
        self, shares: Float64[np.ndarray, " device"], seconds: Float64[np.ndarray, " device"]
    ) -> tuple[Float64[np.ndarray, " device"], Float64[np.ndarray, " device"]]:
        """Seconds taken over those wanted, and the elasticity; both 1 where not served."""
        taken, slope = self.problem.transfers(shares)
        one = np.ones_like(seconds)
        ratio = np.divide(taken, seconds, out=one.copy(), where=self.served)
        return ratio, np.divide(-slope * shares, taken, out=one, where=self.served)


def demand_of(problem: ShareProblem) -> Demand:
    """Who can be served, and how.

    A concave rate whose tangent at the cap goes through 0 is proportional below the cap: an
    elasticity of 1 there says so, within the rounding of a few operations.
    """
    least_s, slope = problem.transfers(problem.most)
    served = problem.served
    bent = np.abs(slope * problem.most + least_s)[served] > 8e-16 * least_s[served]
    return Demand(problem, served, np.where(served, least_s, 1.0), not bent.any())
