"""What a channel is to the rest: every device's rates in a round, by its share of the bandwidth.

Knows no model and no payload; the clock enters only as the second at which a round begins.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cutlayer.channel.shannon import RateCurves
from cutlayer.errors import ConfigError, quoted

# one part in 10^9 forgives shares such as ten times 0.1
_ROUNDING = 1e-9


def check_shares(shares: Sequence[float], devices: int) -> None:
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
        self, round_number: int, start_s: float, shares: Sequence[float]
    ) -> tuple[LinkRates, ...]:
        """Each device's rates in a round, on `shares` of the bandwidth: its part in each direction,
        sum at most 1.

        The broadcast has the whole bandwidth and must reach every device, so the weakest downlink
        sets its rate. Raises ConfigError for shares that do not fit.
        Source: SFT eqs. (19), (21), (23), with one SNR a device in (19).
        """
        check_shares(shares, self.devices)
        curves: object = self.curves(round_number, start_s)
        if not isinstance(curves, RateCurves):
            raise ConfigError(
                f"the curves of the channel {type(self).__name__} should be RateCurves, not"
                f" {quoted(curves)}"
            )
        return link_rates(curves, shares)


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
