"""Rounds of SFT under three allocations of the band, for what the paper leaves open about links.

Each draw is a round: devices of 0.5 to 1.5 GHz, one ratio of signal to noise or ratios that differ.
Its seconds are the timeline's, with the server's queue. Knows no claim and no picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from cutlayer.channel.fading import Fading, NoFading, Rayleigh, SnrChannel
from cutlayer.channel.shannon import Curves
from cutlayer.planner.allocation import (
    Allocation,
    Observed,
    Random,
    Shares,
    TwoTimescale,
    even,
    observe,
    share_problem,
)
from cutlayer.planner.bandwidth import BandwidthStatus, solve_shares
from cutlayer.rounds.schemes import SFT
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import DeviceWork
from reproduction.algorithm3 import PublishedAlgorithm3
from reproduction.setting import DEVICE_FLOPS_PER_HZ, EVALUATION, Setting, work_of

DRAWS = 40
# "randomly generated between 0.5 GHz and 1.5 GHz" (Section VIII-A)
_DEVICE_HZ = (0.5e9, 1.5e9)
# of the band: far above what Algorithm 3's tolerance of 1e-9 moves shares by
_ALIKE = 1e-6


@dataclass(frozen=True)
class Reading:
    """What tells the devices' links apart: a uniform spread of their mean ratios, fading."""

    name: str
    spread_db: float
    fading: Fading


# the first one is what the paper's text says
READINGS = (
    Reading("equal ratios", 0.0, NoFading()),
    Reading("ratios within 10 dB either way", 10.0, NoFading()),
    Reading("equal means, Rayleigh fading", 0.0, Rayleigh()),
)


@dataclass(frozen=True, eq=False)
class Delays:
    """Seconds of a round by allocation ("optimal", "even", "random"), the same draws for each."""

    reading: Reading
    bandwidth_hz: float
    delay_s: Mapping[str, Float64[np.ndarray, " draw"]]

    @property
    def draws(self) -> int:
        """How many there are."""
        return len(self.delay_s["optimal"])

    def saved_percent(self, baseline: str) -> Float64[np.ndarray, " draw"]:
        """By how much the optimal shares shorten a round against a baseline [%]."""
        return np.asarray(100 * (1 - self.delay_s["optimal"] / self.delay_s[baseline]))


def delays_by_reading(bandwidth_hz: float, draws: int = DRAWS) -> tuple[Delays, ...]:
    """The rounds of each reading on a band of `bandwidth_hz`."""
    return tuple(delays_of(reading, bandwidth_hz, draws) for reading in READINGS)


def delays_of(reading: Reading, bandwidth_hz: float, draws: int = DRAWS) -> Delays:
    """Rounds of one epoch after the first; draw d is the same whatever the band is."""
    setting = EVALUATION
    allocations: dict[str, Allocation] = {
        "optimal": TwoTimescale(setting.rules, (1.0,) * setting.devices),
        "even": even(setting.devices),
        "random": Random(setting.devices, seed=0),
    }
    drawn = [_draw(reading, bandwidth_hz, setting, number) for number in range(1, draws + 1)]
    delays = {
        name: np.array([draw.delay_s(allocation) for draw in drawn])
        for name, allocation in allocations.items()
    }
    return Delays(reading, bandwidth_hz, delays)


def algorithm_3_agrees(reading: Reading, bandwidth_hz: float, draws: int = DRAWS) -> float:
    """Percent of the draws in which the published Algorithm 3 ends with the optimal shares."""
    drawn = [_draw(reading, bandwidth_hz, EVALUATION, number) for number in range(1, draws + 1)]
    return 100 * sum(draw.algorithm_3_agrees() for draw in drawn) / draws


@dataclass(frozen=True, eq=False)
class _Draw:
    """One round's devices and channel; `number` tells it from the others."""

    number: int
    setting: Setting
    channel: SnrChannel

    @property
    def curves(self) -> Curves:
        """The round's rates."""
        return self.channel.curves(self.number, 0.0)

    @cached_property
    def observed(self) -> Observed:
        """The round's amounts, the same on any shares."""
        return observe(SFT, self._work(even(self.setting.devices).value))

    def delay_s(self, allocation: Allocation) -> float:
        """The round on the allocation's shares, with the server's queue [s]."""
        shares = allocation.shares(self.number, self.observed, self.curves)
        return simulate(SFT, self._work(shares), self.setting.rules).delay_s

    def algorithm_3_agrees(self) -> bool:
        """Whether the published algorithm, from even shares, ends with those of the exact one."""
        most = np.ones(self.setting.devices)
        problem = share_problem(self.observed, self.curves, self.setting.rules, most)
        theirs = PublishedAlgorithm3().solve(problem)
        ours = solve_shares(problem).shares
        return theirs.status is BandwidthStatus.OPTIMAL and bool(
            abs(theirs.shares - ours).max() < _ALIKE
        )

    def _work(self, shares: Shares) -> list[DeviceWork]:
        links = self.channel.rates(self.number, 0.0, shares)
        return work_of(self.setting, SFT, links, first_round=False)


def _draw(reading: Reading, bandwidth_hz: float, setting: Setting, number: int) -> _Draw:
    rng = np.random.default_rng(number)
    hertz = rng.uniform(*_DEVICE_HZ, setting.devices)
    spread_db = rng.uniform(-reading.spread_db, reading.spread_db, setting.devices)
    ratios_db = setting.snr_db + spread_db
    return _Draw(
        number,
        replace(setting, device_flops_per_s=tuple((DEVICE_FLOPS_PER_HZ * hertz).tolist())),
        SnrChannel(bandwidth_hz, ratios_db, ratios_db, fading=reading.fading),
    )
