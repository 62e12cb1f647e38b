"""What a channel is to the rest: rates by bandwidth share, and every device's in a round."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from jaxtyping import Float, Float64, Int64

from cutlayer.errors import ConfigError, others_code, quoted
from cutlayer.units import linear_from_db

# Shannon's rate of a share of the bandwidth, and rate curves: what an allocation is decided on.
#
# The SNR is given: knows no distance, no fading, no clock, and of devices only their order.


_MOST_DB = 300
_SMALL_SNR = 1e-4


def shannon_rate_bit_per_s(bandwidth_hz: float, snr_db: float) -> float:
    """`b log2(1 + SNR)` [bit/s].

    Raises ConfigError for a bandwidth that is not positive or an SNR outside -300 to 300 dB.
    Source: SFT, text before eq. (21).
    """
    check_bandwidth(bandwidth_hz)
    check_snr(snr_db)
    # log1p: the rate of a very weak link is small, never nothing
    return bandwidth_hz * math.log1p(linear_from_db(snr_db)) / math.log(2)


def check_bandwidth(bandwidth_hz: float) -> None:
    """Raise ConfigError unless the bandwidth is positive and finite."""
    if not (bandwidth_hz > 0 and math.isfinite(bandwidth_hz)):
        raise ConfigError(f"a bandwidth must be positive and finite, not {bandwidth_hz} Hz")


def check_snr(snr_db: float) -> None:
    """Raise ConfigError for an SNR that is not finite, or so far out that powers overflow."""
    if not abs(snr_db) <= _MOST_DB:
        raise ConfigError(f"an SNR must be from -{_MOST_DB} to {_MOST_DB} dB, not {snr_db} dB")


class RateLaw(ABC):
    """How a device's rate follows from its share of the bandwidth: what stays constant as it grows.

    Both laws agree where a device has the whole bandwidth to itself.
    """

    @abstractmethod
    def rate_bit_per_s(
        self,
        share: Float64[np.ndarray, " device"],
        bandwidth_hz: float,
        snr_db: Float64[np.ndarray, " device"],
    ) -> Float64[np.ndarray, " device"]:
        """Each device's rate [bit/s] on its share of `bandwidth_hz`.

        `snr_db` is the SNR that it would have on the whole bandwidth.
        """

    @abstractmethod
    def slope_bit_per_s(
        self,
        share: Float64[np.ndarray, " device"],
        bandwidth_hz: float,
        snr_db: Float64[np.ndarray, " device"],
    ) -> Float64[np.ndarray, " device"]:
        """The rate's derivative by the share [bit/s for the whole bandwidth]."""


@final
@dataclass(frozen=True)
class ConstantSnr(RateLaw):
    """`b log2(1 + SNR)`: power goes with the bandwidth (a fixed power spectral density).

    The paper's law. Right for a server, which spreads its power over the whole bandwidth and gives
    each device a part of both. Source: SFT eqs. (21), (23).
    """

    def rate_bit_per_s(
        self,
        share: Float64[np.ndarray, " device"],
        bandwidth_hz: float,
        snr_db: Float64[np.ndarray, " device"],
    ) -> Float64[np.ndarray, " device"]:
        """Linear in the share."""
        return np.asarray(share * bandwidth_hz * _log2_of_one_plus(10.0 ** (snr_db / 10.0)))

    def slope_bit_per_s(
        self,
        share: Float64[np.ndarray, " device"],
        bandwidth_hz: float,
        snr_db: Float64[np.ndarray, " device"],
    ) -> Float64[np.ndarray, " device"]:
        """The whole bandwidth's rate, whatever the share."""
        return self.rate_bit_per_s(np.ones_like(share), bandwidth_hz, snr_db)


@final
@dataclass(frozen=True)
class ConstantPower(RateLaw):
    """`b log2(1 + P / (N0 b))`: all of a device's power on its share, however narrow.

    Right for devices that send with their full power at once: noise grows with the bandwidth, so
    the SNR falls as the share grows, from SNR / share to SNR on the whole bandwidth. Never less
    than `ConstantSnr`; concave in the share. Source: C. E. Shannon, "Communication in the presence
    of noise", Proc. IRE 37 (1949), theorem 2.
    """

    def rate_bit_per_s(
        self,
        share: Float64[np.ndarray, " device"],
        bandwidth_hz: float,
        snr_db: Float64[np.ndarray, " device"],
    ) -> Float64[np.ndarray, " device"]:
        """P / (N0 b) = SNR / share, since SNR = P / (N0 B) and b = share B."""
        own_snr = 10.0 ** (snr_db / 10.0) / share
        return np.asarray(share * bandwidth_hz * _log2_of_one_plus(own_snr))

    def slope_bit_per_s(
        self,
        share: Float64[np.ndarray, " device"],
        bandwidth_hz: float,
        snr_db: Float64[np.ndarray, " device"],
    ) -> Float64[np.ndarray, " device"]:
        """`B (log2(1 + x) - x / ((1 + x) ln 2))` with x the SNR on the share.

        Near x = 0 its two terms cancel: below 1e-4 their difference is its series,
        `B x^2 (1/2 - 2x/3) / ln 2`, whose next term is 3e-8 of it.
        """
        x = 10.0 ** (snr_db / 10.0) / share
        series = x**2 * (0.5 - 2.0 * x / 3.0)
        exact = np.log1p(x) - x / (1.0 + x)
        return np.asarray(bandwidth_hz * np.where(x < _SMALL_SNR, series, exact) / np.log(2.0))


def _log2_of_one_plus(x: Float64[np.ndarray, " device"]) -> Float64[np.ndarray, " device"]:
    """Right for the smallest x too."""
    return np.asarray(np.log1p(x) / np.log(2.0))


class RateCurve(ABC):
    """Each device's rate in one direction: 0 without a share, increasing and concave in it."""

    @abstractmethod
    def rate_bit_per_s(
        self, share: Float64[np.ndarray, " device"]
    ) -> Float64[np.ndarray, " device"]:
        """Each device's rate [bit/s] on its share of the bandwidth; shares must be positive."""

    @abstractmethod
    def slope_bit_per_s(
        self, share: Float64[np.ndarray, " device"]
    ) -> Float64[np.ndarray, " device"]:
        """The rate's derivative by the share [bit/s for the whole bandwidth]."""

    def of(self, devices: Sequence[int], count: int) -> "RateCurve":
        """Those of some of its `count` devices, in their order."""
        return SomeRates(self, np.array(devices), count)


@final
@dataclass(frozen=True, eq=False)
class SomeRates(RateCurve):
    """Those of some of another curve's `count` devices, whatever the others have."""

    curve: RateCurve
    devices: Int64[np.ndarray, " some"]
    count: int

    def rate_bit_per_s(self, share: Float64[np.ndarray, " some"]) -> Float64[np.ndarray, " some"]:
        """The other's, of these devices."""
        return np.asarray(self.curve.rate_bit_per_s(self._among_all(share))[self.devices])

    def slope_bit_per_s(self, share: Float64[np.ndarray, " some"]) -> Float64[np.ndarray, " some"]:
        """The other's, of these devices."""
        return np.asarray(self.curve.slope_bit_per_s(self._among_all(share))[self.devices])

    def _among_all(self, share: Float64[np.ndarray, " some"]) -> Float64[np.ndarray, " device"]:
        shares = np.ones(self.count)
        shares[self.devices] = share
        return shares


@final
@dataclass(frozen=True, eq=False)
class ProportionalRates(RateCurve):
    """A share of the bandwidth carries that share of the rate: measured ones, and Shannon's at a
    constant SNR. Raises ConfigError for a rate that is negative or not finite.
    """

    whole_bit_per_s: Float[np.ndarray, " device"]

    def __post_init__(self) -> None:
        for rate in self.whole_bit_per_s.tolist():
            if not (math.isfinite(rate) and rate >= 0):
                raise ConfigError(f"a rate must be at least 0 and finite, not {rate} bit/s")

    def rate_bit_per_s(
        self, share: Float64[np.ndarray, " device"]
    ) -> Float64[np.ndarray, " device"]:
        """Linear in the share."""
        return np.asarray(share * self.whole_bit_per_s, dtype=np.float64)

    def slope_bit_per_s(
        self, share: Float64[np.ndarray, " device"]
    ) -> Float64[np.ndarray, " device"]:
        """The whole bandwidth's rate, whatever the share."""
        return np.array(np.broadcast_to(self.whole_bit_per_s, share.shape), dtype=np.float64)

    def of(self, devices: Sequence[int], count: int) -> RateCurve:
        """Their rates alone."""
        return ProportionalRates(self.whole_bit_per_s[list(devices)])


@final
@dataclass(frozen=True, eq=False)
class ShannonRates(RateCurve):
    """Shannon's rate by a law. `snr_db`: on the whole of `bandwidth_hz`."""

    law: RateLaw
    bandwidth_hz: float
    snr_db: Float[np.ndarray, " device"]

    def __post_init__(self) -> None:
        check_bandwidth(self.bandwidth_hz)

    def rate_bit_per_s(
        self, share: Float64[np.ndarray, " device"]
    ) -> Float64[np.ndarray, " device"]:
        """As the law says."""
        return self.law.rate_bit_per_s(share, self.bandwidth_hz, self.snr_db)

    def slope_bit_per_s(
        self, share: Float64[np.ndarray, " device"]
    ) -> Float64[np.ndarray, " device"]:
        """As the law says."""
        return self.law.slope_bit_per_s(share, self.bandwidth_hz, self.snr_db)

    def of(self, devices: Sequence[int], count: int) -> RateCurve:
        """Their SNR alone."""
        return replace(self, snr_db=self.snr_db[list(devices)])


@final
@dataclass(frozen=True)
class ScaledRates(RateCurve):
    """Another curve's rates, so many times: more bandwidth at the same SNR."""

    curve: RateCurve
    factor: float

    def rate_bit_per_s(
        self, share: Float64[np.ndarray, " device"]
    ) -> Float64[np.ndarray, " device"]:
        """The other's, times the factor."""
        return np.asarray(self.factor * self.curve.rate_bit_per_s(share))

    def slope_bit_per_s(
        self, share: Float64[np.ndarray, " device"]
    ) -> Float64[np.ndarray, " device"]:
        """The other's, times the factor."""
        return np.asarray(self.factor * self.curve.slope_bit_per_s(share))


@dataclass(frozen=True)
class RateCurves:
    """Both directions of a round."""

    uplink: RateCurve
    downlink: RateCurve

    def of(self, devices: Sequence[int], count: int) -> "RateCurves":
        """Those of some of the `count` devices, in their order; of all of them, these."""
        if list(devices) == list(range(count)):
            return self
        return RateCurves(self.uplink.of(devices, count), self.downlink.of(devices, count))

    def times(self, factor: float) -> "RateCurves":
        """With rates so many times as high."""
        return RateCurves(ScaledRates(self.uplink, factor), ScaledRates(self.downlink, factor))


# What a channel is to the rest: every device's rates in a round, by its share of the bandwidth.
#
# Knows no model and no payload; the clock enters only as the second at which a round begins.


# one part in 10^9 forgives shares such as ten times 0.1
_ROUNDING = 1e-9


def check_shares(shares: object, devices: int) -> None:
    """Raise ConfigError unless there is one positive share a device, at most 1 together."""
    if not isinstance(shares, Sequence | np.ndarray):
        raise ConfigError(f"bandwidth shares are a number a device, not {quoted(shares)}")
    if len(shares) != devices:
        raise ConfigError(f"{len(shares)} bandwidth shares for {devices} devices: give one each")
    for share in shares:
        if not (share > 0 and math.isfinite(share)):
            raise ConfigError(f"a bandwidth share must be positive and finite, not {share}")
    total = math.fsum(shares)
    if total > 1 + _ROUNDING:
        raise ConfigError(f"bandwidth shares sum to {total:g}, more than the bandwidth (1)")


@dataclass(frozen=True)
class LinkRates:
    """What one device sees in a round, in bit/s; the broadcast is the same for all devices.

    `uplink` and `downlink` are on its share of the bandwidth; `uplink_alone` and `downlink_alone`
    are what it would have with the whole bandwidth to itself.
    """

    uplink_bit_per_s: float
    downlink_bit_per_s: float
    broadcast_bit_per_s: float
    uplink_alone_bit_per_s: float
    downlink_alone_bit_per_s: float

    def alone(self) -> "LinkRates":
        """The rates while no other device sends: the whole bandwidth in place of the share."""
        return replace(
            self,
            uplink_bit_per_s=self.uplink_alone_bit_per_s,
            downlink_bit_per_s=self.downlink_alone_bit_per_s,
        )


class Channel(ABC):
    """The radio between the devices and the server: rates are constant within a round."""

    @abstractmethod
    def curves(self, round_number: int, start_s: float) -> RateCurves:
        """Each device's rate by its share, in round 1, 2, ... that begins at `start_s`.

        The same arguments give the same curves, so a resumed run sees the channel that it would
        have seen. Raises ConfigError for a start that cannot be.
        """

    @abstractmethod
    def mean_curves(self) -> RateCurves:
        """The same for the mean of all rounds: what is decided once is decided on it."""

    @property
    @abstractmethod
    def devices(self) -> int:
        """How many devices it serves."""

    def rates(
        self,
        round_number: int,
        start_s: float,
        shares: Sequence[float],
        devices: Sequence[int] | None = None,
    ) -> tuple[LinkRates, ...]:
        """The rates in a round of those devices that take part (None: all), on `shares` of the
        bandwidth: each one's part in each direction, sum at most 1.

        The broadcast has the whole bandwidth and must reach all of them, so the weakest downlink
        sets its rate. Raises ConfigError for shares that do not fit.
        Source: SFT eqs. (19), (21), (23), with one SNR a device in (19).
        """
        check_shares(shares, self.devices if devices is None else len(devices))
        return link_rates(self.curves_of(round_number, start_s, devices), shares)

    def curves_of(
        self, round_number: int, start_s: float, devices: Sequence[int] | None = None
    ) -> RateCurves:
        """The curves of those devices that take part in a round (None: all), in their order.
        Raises ConfigError where another package's channel gives other things."""
        with others_code(self, "curves"):
            curves: object = self.curves(round_number, start_s)
        if not isinstance(curves, RateCurves):
            raise ConfigError(
                f"the curves of the channel {type(self).__name__} should be RateCurves, not"
                f" {quoted(curves)}"
            )
        return curves if devices is None else curves.of(devices, self.devices)


def link_rates(
    curves: RateCurves, shares: Sequence[float], devices: Sequence[int] | None = None
) -> tuple[LinkRates, ...]:
    """What each device, or each of some, sees on its share of the bandwidth."""
    share, whole = np.asarray(shares, dtype=np.float64), np.ones(len(shares))
    up_alone = curves.uplink.rate_bit_per_s(whole)
    down_alone = curves.downlink.rate_bit_per_s(whole)
    columns = (
        curves.uplink.rate_bit_per_s(share),
        curves.downlink.rate_bit_per_s(share),
        up_alone,
        down_alone,
    )
    broadcast = float(down_alone.min())
    some = slice(None) if devices is None else list(devices)
    rows = zip(*(column[some].tolist() for column in columns), strict=True)
    return tuple(
        LinkRates(up, down, broadcast, whole_up, whole_down)
        for up, down, whole_up, whole_down in rows
    )
