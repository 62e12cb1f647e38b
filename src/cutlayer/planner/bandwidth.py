"""Which bandwidth allocation makes the slowest device as fast as can be (P2), solved exactly.

The problem, the answer with a certificate, and the solver: the deadline is its one unknown, and the
share that each device needs for a deadline is all that it asks. Knows no rate law and no scheme.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int

from cutlayer.channel.rates import RateCurve, RateCurves
from cutlayer.errors import ConfigError

# one part in 10^9 forgives caps such as ten times 0.1
# devices within one part in 10^9 of the deadline, or of their cap, are said to be at it
_TIE = 1e-9
# of the search for a device's share; a relative step whose square is below rounding is the last
_MOST_STEPS = 100
_LAST_STEP = 1e-8
_RATIO_ROUNDING = 1e-14
# a step goes at most by this much in the logarithm: a factor of a thousand
_LONGEST_STEP = 7.0
# of the search for the deadline; its last steps move it by its rounding
_MOST_NEWTON_STEPS = 200
_DEADLINE_ROUNDING = 4 * float(np.finfo(np.float64).eps)
# a sum of thousands of shares is this close to 1 where it should be 1
_FULL = 1 - 1e-12


@dataclass(frozen=True, eq=False)
class BandwidthProblem:
    """Minimise the largest `weights[n] * tau_n` over bandwidth shares b.

    `tau_n = fixed_s[n] + uplink_bits[n] / up_n(b[n]) + downlink_bits[n] / down_n(b[n])`, subject to
    `0 <= b[n] <= most[n]` and `sum(b) <= 1`. Bits are those of a whole round that go on the
    device's own share: a direction that is not shared statically has none. `most` is each device's
    cap, above 0 and at most 1. Weights are ones as a rule; a device of weight 2 must end in half
    the time of the others. The bandwidth need not be used up: caps may sum below 1.

    Raises ConfigError for no device, arrays of other lengths, bits or seconds that are negative or
    not finite, caps outside (0, 1], weights that are not positive, and curves whose rates are
    negative or not finite.
    Source: SFT eqs. (38), (42), with the sum at most 1 where (38c) has it equal.
    """

    fixed_s: Float64[np.ndarray, " device"]
    uplink_bits: Float64[np.ndarray, " device"]
    downlink_bits: Float64[np.ndarray, " device"]
    curves: RateCurves
    most: Float64[np.ndarray, " device"]
    weights: Float64[np.ndarray, " device"]

    def __post_init__(self) -> None:
        if not self.devices:
            raise ConfigError("bandwidth allocation for 0 devices: give at least one")
        columns = {
            "fixed_s": self.fixed_s,
            "uplink_bits": self.uplink_bits,
            "downlink_bits": self.downlink_bits,
            "most": self.most,
            "weights": self.weights,
        }
        for name, column in columns.items():
            if column.shape != (self.devices,):
                raise ConfigError(
                    f"{name} has shape {column.shape} for {self.devices} devices: give one each"
                )
        for name in ("fixed_s", "uplink_bits", "downlink_bits"):
            _check(name, columns[name], "finite and not negative", lambda value: value >= 0)
        _check("most", self.most, "above 0 and at most 1", lambda cap: (cap > 0) & (cap <= 1))
        _check("weights", self.weights, "finite and positive", lambda weight: weight > 0)
        for name, curve in (("uplink", self.curves.uplink), ("downlink", self.curves.downlink)):
            rates = curve.rate_bit_per_s(self.most)
            _check(f"{name} rate [bit/s]", rates, "finite and not negative", lambda rate: rate >= 0)

    @property
    def devices(self) -> int:
        """How many there are."""
        return int(self.fixed_s.size)

    @property
    def idle(self) -> Bool[np.ndarray, " device"]:
        """Devices that send and receive nothing on their share."""
        return np.asarray((self.uplink_bits == 0) & (self.downlink_bits == 0))

    @property
    def unserved(self) -> Bool[np.ndarray, " device"]:
        """Devices whose bits take forever even at their cap: a rate is 0."""
        return np.asarray(~np.isfinite(self.at_cap_s))

    @property
    def served(self) -> Bool[np.ndarray, " device"]:
        """The others: those to find a share for."""
        return np.asarray(np.isfinite(self.at_cap_s) & ~self.idle)

    @cached_property
    def at_cap_s(self) -> Float64[np.ndarray, " device"]:
        """Each device's seconds on a share as large as it may have."""
        return self.transfer_s(self.most)

    def delays_s(self, shares: Float64[np.ndarray, " device"]) -> Float64[np.ndarray, " device"]:
        """Each tau_n [s]; infinite for bits on a share of 0 or at a rate of 0."""
        return np.asarray(self.fixed_s + self.transfer_s(shares))

    def deadline_s(self, shares: Float64[np.ndarray, " device"]) -> float:
        """The largest weighted delay of the devices that can be served; infinite without any."""
        reached = ~self.unserved
        delays = (self.weights * self.delays_s(shares))[reached]
        return float(delays.max()) if delays.size else float("inf")

    def transfer_s(self, shares: Float64[np.ndarray, " device"]) -> Float64[np.ndarray, " device"]:
        """Each device's seconds on its share: convex and falling, since rates are concave."""
        up_s = _seconds(self.uplink_bits, self.curves.uplink, shares)
        return np.asarray(up_s + _seconds(self.downlink_bits, self.curves.downlink, shares))

    def transfers(
        self, shares: Float64[np.ndarray, " device"]
    ) -> tuple[Float64[np.ndarray, " device"], Float64[np.ndarray, " device"]]:
        """`transfer_s`, and its derivative by the share, which must be positive."""
        up_s = _seconds(self.uplink_bits, self.curves.uplink, shares)
        down_s = _seconds(self.downlink_bits, self.curves.downlink, shares)
        up_slope = _slope(self.uplink_bits, up_s, self.curves.uplink, shares)
        down_slope = _slope(self.downlink_bits, down_s, self.curves.downlink, shares)
        return up_s + down_s, up_slope + down_slope


def _check(
    name: str,
    column: Float64[np.ndarray, " device"],
    must: str,
    fits: Callable[[Float64[np.ndarray, " device"]], Bool[np.ndarray, " device"]],
) -> None:
    wrong = ~(np.isfinite(column) & fits(column))
    if wrong.any():
        device = int(wrong.argmax())
        raise ConfigError(f"{name} must be {must}; device {device} has {column[device]:g}")


def _seconds(
    bits: Float64[np.ndarray, " device"],
    curve: RateCurve,
    shares: Float64[np.ndarray, " device"],
) -> Float64[np.ndarray, " device"]:
    """One direction's, infinite for bits that do not move."""
    if not bits.any():
        return np.zeros_like(bits)
    rate = curve.rate_bit_per_s(np.where(shares > 0, shares, 1.0))
    moves = (shares > 0) & (rate > 0)
    seconds = np.where(bits > 0, np.inf, 0.0)
    with np.errstate(over="ignore"):
        return np.asarray(np.divide(bits, rate, out=seconds, where=moves))


def _slope(
    bits: Float64[np.ndarray, " device"],
    seconds: Float64[np.ndarray, " device"],
    curve: RateCurve,
    shares: Float64[np.ndarray, " device"],
) -> Float64[np.ndarray, " device"]:
    """The derivative of bits / rate = seconds; 0 where no bits move, or none can."""
    if not bits.any():
        return np.zeros_like(bits)
    moves = (bits > 0) & np.isfinite(seconds)
    per_bit = np.divide(seconds, bits, out=np.zeros_like(bits), where=moves)
    return np.asarray(-np.where(moves, seconds, 0.0) * per_bit * curve.slope_bit_per_s(shares))


# The certificate: a dual bound that no shares can beat. It holds at any shares and any multipliers,
# and is tight at the best ones, so that a wrong solver shows a gap.


def lower_bound_s(problem: BandwidthProblem, shares: Float64[np.ndarray, " device"]) -> float:
    """A lower bound of the weighted deadline [s] of the devices that can be served.

    The larger of two: what each device takes at its cap, and the dual bound whose tangents touch at
    `shares`, with the price of bandwidth at which none of them would rather have another share.
    Infinite where no device can be served.
    """
    reached = ~problem.unserved
    if not reached.any():
        return float("inf")
    alone_s = float((problem.weights * (problem.fixed_s + problem.at_cap_s))[reached].max())
    if not problem.served.any():
        return alone_s
    tangents = tangents_at(problem, np.where(shares > 0, shares, problem.most / problem.devices))
    # a second of deadline frees 1 / -slope of bandwidth: with these multipliers all tangents are
    # level
    freed = np.divide(-1.0, tangents.slope, out=np.zeros_like(shares), where=problem.served)
    price = 1.0 / float(freed.sum())
    return max(alone_s, tangents.dual_bound_s(freed * price, price))


@dataclass(frozen=True, eq=False)
class Tangents:
    """Lines below the weighted delays of a problem's devices, which touch them at `points`."""

    most: Float64[np.ndarray, " device"]
    points: Float64[np.ndarray, " device"]
    delay_s: Float64[np.ndarray, " device"]
    slope: Float64[np.ndarray, " device"]

    def dual_bound_s(self, multipliers: Float64[np.ndarray, " device"], price: float) -> float:
        """`sum_n min_b (m[n] line_n(b) + price b[n]) - price` over `0 <= b <= most`.

        At most the least deadline for any multipliers m >= 0 that sum to 1 (0 for devices that
        cannot be served), and any price >= 0 [s for the whole bandwidth]: delays are convex, so
        their lines lie below them, and a line is least at one of its ends. Source: S. Boyd, L.
        Vandenberghe, Convex Optimization (2004), section 5.1.3.
        """
        delay_s = np.multiply(multipliers, self.delay_s, where=multipliers > 0, out=0 * self.points)
        slope = np.multiply(multipliers, self.slope, where=multipliers > 0, out=0 * self.points)
        slope += price
        least_s = delay_s + price * self.points
        least_s += np.minimum(-slope * self.points, slope * (self.most - self.points))
        return float(least_s.sum()) - price


def tangents_at(problem: BandwidthProblem, points: Float64[np.ndarray, " device"]) -> Tangents:
    """The lines that touch at any positive shares."""
    seconds, slope = problem.transfers(points)
    return Tangents(
        problem.most,
        points,
        problem.weights * (problem.fixed_s + seconds),
        problem.weights * slope,
    )


# What a solver answers with, whichever it is.


class SolverStatus(StrEnum):
    """How a solver of (P1) or (P2) ended."""

    OPTIMAL = "optimal"
    CONVERGED = "converged"
    NOT_CONVERGED = "not converged"
    INFEASIBLE = "no feasible shares"
    ZERO_SHARE = "a device that sends got no share"
    NOBODY_SERVED = "no device can be served"
    INACCURATE = "no setting reaches the accuracy"
    NO_CUT = "no cut keeps the limits"


class LimitedBy(StrEnum):
    """Why the round is not shorter: what would have to grow, or shrink."""

    BANDWIDTH = "the bandwidth"
    CAP = "a device's cap"
    FIXED = "the fixed seconds of a device that sends nothing"
    NOTHING = "no device"


@dataclass(frozen=True, eq=False)
class BandwidthSolution:
    """A bandwidth allocation, and how good it is.

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
    status: SolverStatus

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
        """The part of the bandwidth that nobody has."""
        return max(0.0, 1.0 - float(self.shares.sum()))


def solution_of(
    problem: BandwidthProblem,
    shares: Float64[np.ndarray, " device"],
    steps: int,
    status: SolverStatus,
) -> BandwidthSolution:
    """What these shares come to."""
    unserved = problem.unserved
    idle = problem.idle
    delays = problem.weights * problem.delays_s(shares)
    deadline_s = problem.deadline_s(shares)
    binding = ~unserved & (delays >= deadline_s * (1 - _TIE))
    return BandwidthSolution(
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


def without_shares(problem: BandwidthProblem) -> BandwidthSolution:
    """Where no device has a use for a share: all are idle or cannot be served."""
    nobody = bool(problem.unserved.all())
    status = SolverStatus.NOBODY_SERVED if nobody else SolverStatus.OPTIMAL
    return solution_of(problem, np.zeros(problem.devices), 0, status)


def _limited_by(
    idle: Bool[np.ndarray, " binding"],
    at_cap: Bool[np.ndarray, " binding"],
    most: Float64[np.ndarray, " binding"],
) -> LimitedBy:
    """By the devices that end last; one cap below 1 is enough: more bandwidth would not help."""
    if not idle.size:
        return LimitedBy.NOTHING
    if idle.any():
        return LimitedBy.FIXED
    return LimitedBy.CAP if (at_cap & (most < 1)).any() else LimitedBy.BANDWIDTH


# The share that each device needs to get its bits through in given seconds.


@dataclass(frozen=True, eq=False)
class NeededShares:
    """Shares, and how many per cent more seconds a per cent less share costs."""

    shares: Float64[np.ndarray, " device"]
    elasticity: Float64[np.ndarray, " device"]


@dataclass(frozen=True, eq=False)
class ShareDemand:
    """The inverse of the seconds on a share, for the devices that are `served`; 0 for the others.

    `least_s`: seconds at the cap. `proportional`: all rates are, so that the inverse is closed.
    """

    problem: BandwidthProblem
    served: Bool[np.ndarray, " device"]
    least_s: Float64[np.ndarray, " device"]
    proportional: bool

    def needed(
        self, seconds: Float64[np.ndarray, " device"], guess: Float64[np.ndarray, " device"]
    ) -> NeededShares:
        """The shares on which transfers take `seconds`, each at least `least_s`.

        `guess`: shares to search from, positive where served.
        """
        if self.proportional:
            share_seconds = self.problem.most * self.least_s
            shares = np.divide(
                share_seconds, seconds, out=np.zeros_like(seconds), where=self.served
            )
            return NeededShares(np.minimum(shares, self.problem.most), np.ones_like(seconds))
        return self._searched(seconds, guess)

    def _searched(
        self, seconds: Float64[np.ndarray, " device"], guess: Float64[np.ndarray, " device"]
    ) -> NeededShares:
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
            settled = (np.abs(step) <= _LAST_STEP) | (np.abs(ratio - 1) <= _RATIO_ROUNDING)
            if settled.all():
                break
        return NeededShares(np.where(self.served, shares, 0.0), elasticity)

    def _ratio(
        self, shares: Float64[np.ndarray, " device"], seconds: Float64[np.ndarray, " device"]
    ) -> tuple[Float64[np.ndarray, " device"], Float64[np.ndarray, " device"]]:
        """Seconds taken over those wanted, and the elasticity; both 1 where not served."""
        taken, slope = self.problem.transfers(shares)
        one = np.ones_like(seconds)
        ratio = np.divide(taken, seconds, out=one.copy(), where=self.served)
        return ratio, np.divide(-slope * shares, taken, out=one, where=self.served)


def share_demand(problem: BandwidthProblem) -> ShareDemand:
    """Who can be served, and how.

    A concave rate whose tangent at the cap goes through 0 is proportional below the cap: an
    elasticity of 1 there says so, within the rounding of a few operations.
    """
    least_s, slope = problem.transfers(problem.most)
    served = problem.served
    bent = np.abs(slope * problem.most + least_s)[served] > 8e-16 * least_s[served]
    return ShareDemand(problem, served, np.where(served, least_s, 1.0), not bent.any())


# The solver: the common time at which all end, or at their caps later.


def solve_bandwidth(problem: BandwidthProblem) -> BandwidthSolution:
    """The best shares, with a bound that proves it; thousands of devices take milliseconds.

    Of all best shares, those that leave nobody slower than need be: each device that sends ends at
    one common time, or is at its cap and ends later. So bandwidth that the slowest device may not
    have goes to the next slowest, and so on; some stays unused only where all are at their caps.

    The shares needed for a time are convex and falling in it, so Newton from a time that is too
    short comes up to the right one, in a few steps however many devices.
    """
    demand = share_demand(problem)
    if not demand.served.any():
        return without_shares(problem)
    found = _common_time(demand, _below_caps(demand))
    # rounding may have left the sum 1e-16 above 1
    shares = found.shares / max(1.0, float(found.shares.sum()))
    return solution_of(problem, shares, found.steps, found.status)


@dataclass(frozen=True, eq=False)
class _Found:
    shares: Float64[np.ndarray, " device"]
    steps: int
    status: SolverStatus


def _below_caps(demand: ShareDemand) -> Bool[np.ndarray, " device"]:
    """The devices that the common time keeps from their caps, or just at them.

    At a device's own time at its cap, and before, it is at the cap. Shares shrink as the common
    time grows, so the last such time at which they fill the bandwidth is found by bisection.
    """
    problem = demand.problem
    own_s = np.where(demand.served, problem.weights * (problem.fixed_s + demand.least_s), np.inf)
    times = np.unique(own_s[demand.served])
    filled, not_filled = -1, len(times)
    while not_filled - filled > 1:
        # the last time first: as a rule no cap is reached
        middle = not_filled - 1 if not_filled == len(times) else (filled + not_filled) // 2
        if _total(demand, own_s, times[middle]) >= _FULL:
            filled = middle
        else:
            not_filled = middle
    return demand.served & (own_s <= (times[filled] if filled >= 0 else -np.inf))


def _total(demand: ShareDemand, own_s: Float64[np.ndarray, " device"], time_s: float) -> float:
    """The bandwidth that all need to end at a common time, or at their caps, if that is later."""
    problem = demand.problem
    seconds = np.maximum(time_s / problem.weights - problem.fixed_s, demand.least_s)
    seconds = np.where(own_s >= time_s, demand.least_s, seconds)
    return float(demand.needed(seconds, problem.most).shares.sum())


def _common_time(demand: ShareDemand, free: Bool[np.ndarray, " device"]) -> _Found:
    """Newton for the time at which the `free` devices end and the shares fill the bandwidth.

    Time is counted from the latest end of fixed seconds among them: what is left for transfers is
    then a sum without cancellation, however small beside the fixed seconds.

    The step is that for the reciprocal of the shares' sum, which is nearly a line (and concave for
    proportional rates, so that it never goes too far). Where it does, plain steps follow, and the
    first of them comes back.
    """
    problem, weights = demand.problem, demand.problem.weights
    shares = np.where(demand.served, problem.most, 0.0)
    if not free.any():
        return _Found(shares, 0, SolverStatus.OPTIMAL)
    fixed_s = weights * problem.fixed_s
    lead_s = float(fixed_s[free].max()) - fixed_s
    too_short_s = past_s = float((weights * demand.least_s - lead_s)[free].max())
    room = 1 - float(shares[~free].sum())
    passed = False
    for step in range(1, _MOST_NEWTON_STEPS + 1):
        seconds = np.where(free, (lead_s + past_s) / weights, demand.least_s)
        needed = demand.needed(np.maximum(seconds, demand.least_s), shares)
        shares = needed.shares
        total = float(shares[free].sum())
        freed = np.where(free, shares / (needed.elasticity * seconds * weights), 0.0)
        move_s = (total - room) / float(freed.sum())
        # plain steps come up from below: one that goes back again is rounding
        settled = passed and move_s < 0
        passed = passed or move_s < 0
        if not passed:
            too_short_s = past_s
        longer = 1.0 if passed else total / room
        next_s = max(too_short_s, past_s + longer * move_s)
        if settled or abs(next_s - past_s) <= _DEADLINE_ROUNDING * past_s:
            # what rounding left of the bandwidth, or took, changes everybody's time alike
            shares = np.clip(shares - move_s * freed, 0.0, problem.most)
            return _Found(shares, step, SolverStatus.OPTIMAL)
        past_s = next_s
    return _Found(shares, _MOST_NEWTON_STEPS, SolverStatus.NOT_CONVERGED)
