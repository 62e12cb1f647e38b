"""Who has which share of the band in a round: one interface for modelled and measured rounds.

An allocation is asked at the start of a round, with the channel as it is then and the amounts of
the round before. It remembers nothing, so a resumed run divides the band as it would have. Knows
neither the channel's source nor the solver's method.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from jaxtyping import Float64

from cutlayer.channel.curves import Curves
from cutlayer.planner.bandwidth.exact import solve_shares
from cutlayer.planner.observed import Observed, share_problem
from cutlayer.timeline.rules import Rules

Shares = tuple[float, ...]

# keeps these streams apart from those that other parts of a run make of the same seed
_ALLOCATION = int.from_bytes(b"alloc")
# of an even share: what a device with nothing to send keeps, so that its rate is not 0
_IDLE = 1e-9


class Allocation(ABC):
    """Each round's shares of the band: positive, at most 1 together."""

    @abstractmethod
    def shares(self, round_number: int, observed: Observed, curves: Curves) -> Shares:
        """Each device's share in round 1, 2, ...

        `observed`: what the round before took, expected or measured; `curves`: this round's rates.
        Raises ConfigError where no shares can be.
        """

    def within(self, most: Shares) -> "Allocation":
        """The same with no share beyond `most`, if shares are found here; else as it is."""
        return self


@final
@dataclass(frozen=True)
class Fixed(Allocation):
    """The same shares in every round: even ones, given ones, or those of `best_shares`."""

    value: Shares

    def shares(self, round_number: int, observed: Observed, curves: Curves) -> Shares:
        """As they are."""
        return self.value


def even(devices: int) -> Fixed:
    """As much for each."""
    return Fixed((1.0 / devices,) * devices)


@final
@dataclass(frozen=True)
class Random(Allocation):
    """U(0, 1) for each device and round, divided by their sum: the paper's baseline.

    A function of (seed, round). Source: SFT Section VIII-B ("randomly allocated").
    """

    devices: int
    seed: int

    def shares(self, round_number: int, observed: Observed, curves: Curves) -> Shares:
        """Whatever the round needs."""
        rng = np.random.default_rng([self.seed, _ALLOCATION, round_number])
        # from (0, 1]: a share is positive
        drawn = 1.0 - rng.random(self.devices)
        return tuple((drawn / drawn.sum()).tolist())


@final
@dataclass(frozen=True)
class TwoTimescale(Allocation):
    """The best shares for each round's channel; cut and codec were chosen before, once.

    `most`: the largest share of each device. Source: SFT Section VI, its small time scale.
    """

    rules: Rules
    most: Shares

    def shares(self, round_number: int, observed: Observed, curves: Curves) -> Shares:
        """Solved anew."""
        return best_shares(observed, curves, self.rules, self.most)

    def within(self, most: Shares) -> "TwoTimescale":
        """With the smaller of both largest shares of each device."""
        return replace(self, most=tuple(map(min, self.most, most)))


def best_shares(observed: Observed, curves: Curves, rules: Rules, most: Shares) -> Shares:
    """The shares with which a round like `observed` ends soonest, queues apart.

    A device with nothing to send keeps a billionth of an even share: it may have something next
    round. Raises ConfigError where no shares can be.
    """
    solved = solve_shares(share_problem(observed, curves, rules, np.array(most))).shares
    return tuple(_positive(solved).tolist())


def _positive(shares: Float64[np.ndarray, " device"]) -> Float64[np.ndarray, " device"]:
    """Idle devices' shares lifted above 0, in what the others leave or at their expense."""
    if shares.all():
        return shares
    lifted = np.maximum(shares, _IDLE / len(shares))
    return np.asarray(lifted / max(1.0, float(lifted.sum())))
