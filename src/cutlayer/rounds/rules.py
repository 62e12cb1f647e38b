"""Who shares what in a round: the server's workers, the band each way, one or both ways at once.

Knows no seconds. The rates of a share and of the whole band come with the work.
"""

from dataclasses import dataclass
from enum import StrEnum

from cutlayer.errors import ConfigError
from cutlayer.rounds.schemes import Place


class Sharing(StrEnum):
    """How transfers in one direction share the band.

    STATIC: each device sends in its own share, at that share's rate. IN_TURN: one transfer at a
    time has the whole band, first come first served. SHARED: all devices with something to send
    take time slots in turn, so a transfer of each of n goes at 1/n of its own whole-band rate
    (processor sharing); a device sends its own in order.
    """

    STATIC = "static"
    IN_TURN = "in turn"
    SHARED = "shared"


class Duplex(StrEnum):
    """FULL: a band for each direction. HALF: uplink and downlink share one band in time."""

    FULL = "full"
    HALF = "half"


@dataclass(frozen=True)
class Rules:
    """What a round's devices share. The defaults are the paper's: one server, static shares.

    With half duplex a band serves both directions by one rule: with static shares each device's
    share is either up or down at a time, else the whole band is.
    Raises ConfigError without a worker, or for half duplex with two ways of sharing.
    Source: SFT Section IV (static shares, one server); the others are ours.
    """

    server_workers: int = 1
    uplink: Sharing = Sharing.STATIC
    downlink: Sharing = Sharing.STATIC
    duplex: Duplex = Duplex.FULL

    def __post_init__(self) -> None:
        if self.server_workers < 1:
            raise ConfigError(f"server_workers is {self.server_workers}: a round needs at least 1")
        if self.duplex is Duplex.HALF and self.uplink is not self.downlink:
            raise ConfigError(
                f"half duplex is one band for both directions, but the uplink is {self.uplink} and"
                f" the downlink {self.downlink}: give both the same sharing"
            )

    def whole_band(self, place: Place) -> bool:
        """Whether a transfer at `place` goes at the rate of the whole band, not of a share."""
        match place:
            case Place.UPLINK:
                return self.uplink is not Sharing.STATIC
            case Place.DOWNLINK:
                return self.downlink is not Sharing.STATIC
            case _:
                return False
