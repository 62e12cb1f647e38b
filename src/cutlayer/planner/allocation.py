"""Who has which share of the bandwidth in a round: one interface for modelled and measured rounds.

An allocation is asked at the start of a round, with the channel as it is then and the amounts of
the round before. It remembers nothing, so a resumed run divides the bandwidth as it would have.
Knows neither the channel's source nor the solver's method; the steps of a scheme by their places
alone. One device's queueing behind others is left out: it depends on all shares at once.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast, final

import numpy as np
from jaxtyping import Float64

from cutlayer.channel.rates import RateCurves, check_shares
from cutlayer.errors import others_code
from cutlayer.planner.bandwidth import BandwidthProblem, solve_bandwidth
from cutlayer.rounds.schemes import Place, Scheme
from cutlayer.rounds.work import DeviceWork, SharingRules
from cutlayer.units import BITS_PER_BYTE

# each device's part of the bandwidth, above 0; at most 1 together
Shares = tuple[float, ...]

_ROUNDING = 1e-12
# keeps these streams apart from those that other parts of a run make of the same seed
_ALLOCATION = int.from_bytes(b"alloc")
# of an even share: what a device with nothing to send keeps, so that its rate is not 0
_IDLE = 1e-9


@dataclass(frozen=True, eq=False)
class ObservedRound:
    """What each device took in one round, whoever found out: a cost model, a trainer, a network.

    `compute_s`: its own computing and the server's for it, without waits. `broadcast_bits`: what it
    heard on the whole bandwidth. `uplink_bits`, `downlink_bits`: what it sent and was sent alone.
    """

    compute_s: Float64[np.ndarray, " device"]
    broadcast_bits: Float64[np.ndarray, " device"]
    uplink_bits: Float64[np.ndarray, " device"]
    downlink_bits: Float64[np.ndarray, " device"]


def observed_work(scheme: Scheme, work: Sequence[DeviceWork]) -> ObservedRound:
    """The sums of each device's round.

    A scheme whose micro-batches overlap takes less than the sum of its steps, so there the seconds
    are a bound. Raises ConfigError for work that does not fit the scheme.
    """
    totals = np.array([_totals(scheme, device) for device in work])
    return ObservedRound(*np.ascontiguousarray(totals.T))


def _totals(scheme: Scheme, work: DeviceWork) -> tuple[float, float, float, float]:
    """Seconds of computing; bits heard, sent, received."""
    compute_s, bits = 0.0, dict.fromkeys((Place.BROADCAST, Place.UPLINK, Place.DOWNLINK), 0.0)
    edges = [(step, 1) for step in (*scheme.opening, *scheme.closing)]
    for step, repeats in (*edges, *((step, work.repeats) for step in scheme.local)):
        if step.sends:
            bits[step.place] += BITS_PER_BYTE * float(work.payload_bytes(step).sum())
        else:
            compute_s += float(work.seconds(step, repeats).sum())
    return compute_s, bits[Place.BROADCAST], bits[Place.UPLINK], bits[Place.DOWNLINK]


def bandwidth_problem(
    observed: ObservedRound,
    curves: RateCurves,
    rules: SharingRules,
    most: Float64[np.ndarray, " device"],
) -> BandwidthProblem:
    """The shares that a round like `observed` needs on this round's rates: a min-max problem.

    Without a queue a device's round is the broadcast, its computing, and its bits each way on its
    share. Bits in a direction that is not shared out statically go at the whole bandwidth's rate,
    so they count among the seconds that no share changes. `most`: the largest share of each device.
    Raises ConfigError as `BandwidthProblem` does.
    Source: SFT eqs. (19) to (27), (38).
    """
    up_alone, down_alone = (
        curve.rate_bit_per_s(np.ones(len(most))) for curve in (curves.uplink, curves.downlink)
    )
    up_bits, up_s = _on_share(observed.uplink_bits, up_alone, rules.whole_bandwidth(Place.UPLINK))
    down_bits, down_s = _on_share(
        observed.downlink_bits, down_alone, rules.whole_bandwidth(Place.DOWNLINK)
    )
    sent_s = observed.broadcast_bits / down_alone.min() + up_s + down_s
    return BandwidthProblem(
        fixed_s=_unless_rounded(observed.compute_s + sent_s, sent_s),
        uplink_bits=up_bits,
        downlink_bits=down_bits,
        curves=curves,
        most=most,
        weights=np.ones(len(most)),
    )


def _unless_rounded(
    sum_s: Float64[np.ndarray, " device"], part_s: Float64[np.ndarray, " device"]
) -> Float64[np.ndarray, " device"]:
    """A sum without what is below zero by its rounding alone: a part may be as good as all of it.

    Only seconds that were moved to what a timeline saw can be so.
    """
    return np.where((sum_s < 0) & (sum_s > -_ROUNDING * part_s), 0.0, sum_s)


def _on_share(
    bits: Float64[np.ndarray, " device"],
    whole_bit_per_s: Float64[np.ndarray, " device"],
    whole_bandwidth: bool,
) -> tuple[Float64[np.ndarray, " device"], Float64[np.ndarray, " device"]]:
    """The bits that go on a share, and the seconds of those that have the bandwidth to
    themselves."""
    nothing = np.zeros_like(bits)
    return (nothing, bits / whole_bit_per_s) if whole_bandwidth else (bits, nothing)


class Allocation(ABC):
    """Each round's bandwidth allocation: positive shares, at most 1 together."""

    @abstractmethod
    def shares(self, round_number: int, observed: ObservedRound, curves: RateCurves) -> Shares:
        """Each device's share in round 1, 2, ...

        `observed`: what the round before took, expected or measured; `curves`: this round's rates.
        Raises ConfigError where no shares can be.
        """

    def within(self, most: Shares) -> "Allocation":
        """The same with no share beyond `most`, if shares are found here; else as it is."""
        return self

    def of(self, devices: Sequence[int]) -> "Allocation":
        """The same for a round in which these take part and the others do not. Unless it says
        otherwise it is asked as ever: what it is asked about are those that take part."""
        return self


def ask_shares(
    allocation: Allocation, round_number: int, observed: ObservedRound, curves: RateCurves
) -> Shares:
    """Its shares of a round. Raises ConfigError as it does, or where another package's fails, or
    gives other things."""
    with others_code(allocation, "shares"):
        shares: object = allocation.shares(round_number, observed, curves)
    check_shares(shares, len(observed.compute_s))
    return tuple(map(float, cast(Sequence[float], shares)))


@final
@dataclass(frozen=True)
class FixedAllocation(Allocation):
    """The same shares in every round: even ones, given ones, or those of `best_shares`."""

    value: Shares

    def shares(self, round_number: int, observed: ObservedRound, curves: RateCurves) -> Shares:
        """As they are."""
        return self.value

    def of(self, devices: Sequence[int]) -> Allocation:
        """In the same proportions; of even shares even ones."""
        if list(devices) == list(range(len(self.value))):
            return self
        own = [self.value[device] for device in devices]
        factor = math.fsum(self.value) / math.fsum(own)
        return FixedAllocation(tuple(factor * share for share in own))


def even_allocation(devices: int) -> FixedAllocation:
    """As much for each."""
    return FixedAllocation((1.0 / devices,) * devices)


@final
@dataclass(frozen=True)
class RandomAllocation(Allocation):
    """U(0, 1) for each device and round, divided by their sum: the paper's baseline.

    A function of (seed, round). Source: SFT Section VIII-B ("randomly allocated").
    """

    devices: int
    seed: int

    def shares(self, round_number: int, observed: ObservedRound, curves: RateCurves) -> Shares:
        """Whatever the round needs."""
        rng = np.random.default_rng([self.seed, _ALLOCATION, round_number])
        # from (0, 1]: a share is positive
        drawn = 1.0 - rng.random(self.devices)
        return tuple((drawn / drawn.sum()).tolist())

    def of(self, devices: Sequence[int]) -> Allocation:
        """Drawn for so many."""
        return replace(self, devices=len(devices))


@final
@dataclass(frozen=True)
class TwoTimescaleAllocation(Allocation):
    """The best shares for each round's channel; cut and codec were chosen before, once.

    `most`: the largest share of each device. Source: SFT Section VI, its small time scale.
    """

    rules: SharingRules
    most: Shares

    def shares(self, round_number: int, observed: ObservedRound, curves: RateCurves) -> Shares:
        """Solved anew."""
        return best_shares(observed, curves, self.rules, self.most)

    def within(self, most: Shares) -> "TwoTimescaleAllocation":
        """With the smaller of both largest shares of each device."""
        return replace(self, most=tuple(map(min, self.most, most)))

    def of(self, devices: Sequence[int]) -> Allocation:
        """With their largest shares."""
        return replace(self, most=tuple(self.most[device] for device in devices))


def best_shares(
    observed: ObservedRound, curves: RateCurves, rules: SharingRules, most: Shares
) -> Shares:
    """The shares with which a round like `observed` ends soonest, queues apart.

    A device with nothing to send keeps a billionth of an even share: it may have something next
    round. Raises ConfigError where no shares can be.
    """
    solved = solve_bandwidth(bandwidth_problem(observed, curves, rules, np.array(most))).shares
    return tuple(_positive(solved).tolist())


def _positive(shares: Float64[np.ndarray, " device"]) -> Float64[np.ndarray, " device"]:
    """Idle devices' shares lifted above 0, in what the others leave or at their expense."""
    if shares.all():
        return shares
    lifted = np.maximum(shares, _IDLE / len(shares))
    return np.asarray(lifted / max(1.0, float(lifted.sum())))
