"""Which shares of the band make the slowest device as fast as can be: the problem (P2).

Knows what a device's round takes by its share, and not how shares are found.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64

from cutlayer.channel.curves import Curves, RateCurve
from cutlayer.errors import ConfigError

# one part in 10^9 forgives caps such as ten times 0.1
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class ShareProblem:
    """Minimise the largest `weights[n] * tau_n` over shares b of the band.

    `tau_n = fixed_s[n] + uplink_bits[n] / up_n(b[n]) + downlink_bits[n] / down_n(b[n])`, subject to
    `0 <= b[n] <= most[n]` and `sum(b) <= 1`. Bits are those of a whole round that go on the
    device's own share: a direction that is not shared statically has none. `most` is each device's
    cap, above 0 and at most 1. Weights are ones as a rule; a device of weight 2 must end in half
    the time of the others. The band need not be used up: caps may sum below it.

    Raises ConfigError for no device, arrays of other lengths, bits or seconds that are negative or
    not finite, caps outside (0, 1], weights that are not positive, and curves whose rates are
    negative or not finite.
    Source: SFT eqs. (38), (42), with the sum at most the band where (38c) has it equal.
    """

    fixed_s: Float64[np.ndarray, " device"]
    uplink_bits: Float64[np.ndarray, " device"]
    downlink_bits: Float64[np.ndarray, " device"]
    curves: Curves
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


def require_whole_band(problem: ShareProblem) -> None:
    """Raise ConfigError unless the caps of the devices that can be served let their shares sum to
    the band, as SFT eq. (42c) asks. Where there is none, nobody needs the band.
    """
    caps = problem.most[problem.served]
    total = float(caps.sum())
    if caps.size and total < 1 - _ROUNDING:
        raise ConfigError(
            f"the caps of {caps.size} devices sum to {total:g} of the bandwidth, which must be used"
            " up: raise the caps, or choose a solver that may leave bandwidth unused"
        )


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
