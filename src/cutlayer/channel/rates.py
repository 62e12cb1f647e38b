"""What a channel is to the rest: every device's rates in a round.

Knows no model, no payload; the clock enters only as the second at which a round begins.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LinkRates:
    """What one device sees in a round, in bit/s; the broadcast is the same for all devices.

    `uplink` and `downlink` are on its share of the band; `uplink_band` and `downlink_band` are what
    it would have with the whole band to itself.
    """

    uplink_bit_per_s: float
    downlink_bit_per_s: float
    broadcast_bit_per_s: float
    uplink_band_bit_per_s: float
    downlink_band_bit_per_s: float

    def alone(self) -> "LinkRates":
        """The rates while no other device sends: the whole band in place of the share."""
        return replace(
            self,
            uplink_bit_per_s=self.uplink_band_bit_per_s,
            downlink_bit_per_s=self.downlink_band_bit_per_s,
        )


class Channel(ABC):
    """The radio between the devices and the server: rates are constant within a round."""

    @abstractmethod
    def rates(
        self, round_number: int, start_s: float, shares: Sequence[float]
    ) -> tuple[LinkRates, ...]:
        """Each device's rates in round 1, 2, ... that begins at `start_s` on the virtual clock.

        `shares`: each device's part of the band, in each direction; sum at most 1. The same
        arguments give the same rates, so a resumed run sees the channel that it would have seen.
        Raises ConfigError for shares that do not fit.
        """
