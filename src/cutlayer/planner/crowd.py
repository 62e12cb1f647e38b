"""Which devices a round is played with: all, or some that stand for many.

Knows no clock. Of thousands of devices each meets the same queue when fewer of them share a server
and a band that are slower in proportion: what one device takes there is longer, by less than the
round over the number that are played, and everyone's together is the same.
"""

from dataclasses import dataclass

import numpy as np

from cutlayer.channel.curves import Curves
from cutlayer.channel.rates import LinkRates
from cutlayer.planner.decision import Decision
from cutlayer.planner.estimate import amounts_of, device_seconds
from cutlayer.planner.workload import Workload
from cutlayer.schemes.scheme import DeviceOrder, Place
from cutlayer.timeline.rules import Rules
from cutlayer.timeline.work import DeviceRates

MOST_DEVICES = 128
# devices whose seconds differ by less are told apart by their computing
_DIGITS = 6


@dataclass(frozen=True)
class Crowd:
    """The devices that are played, by number, and how many each of them stands for."""

    devices: tuple[int, ...]
    stands_for: float

    def rates(self, own: DeviceRates, rules: Rules, order: DeviceOrder) -> DeviceRates:
        """A device's rates at what it shares; of devices in turn, at everything."""
        link, factor = own.link, 1.0 / self.stands_for
        in_turn = order is DeviceOrder.IN_TURN
        up, down = (
            factor if in_turn or rules.whole_band(place) else 1.0
            for place in (Place.UPLINK, Place.DOWNLINK)
        )
        return DeviceRates(
            own.device_flops_per_s * (factor if in_turn else 1.0),
            own.server_flops_per_s * factor,
            LinkRates(
                uplink_bit_per_s=up * link.uplink_bit_per_s,
                downlink_bit_per_s=down * link.downlink_bit_per_s,
                broadcast_bit_per_s=link.broadcast_bit_per_s,
                uplink_band_bit_per_s=up * link.uplink_band_bit_per_s,
                downlink_band_bit_per_s=down * link.downlink_band_bit_per_s,
            ),
        )


def crowd_of(workload: Workload, decision: Decision, curves: Curves) -> Crowd:
    """All devices; of more than `MOST_DEVICES` the middle one of each of as many equal parts.

    Parts are by the seconds that devices take without a queue, and the last part's is the slowest.
    """
    count = len(workload.devices)
    if count <= MOST_DEVICES:
        return Crowd(tuple(range(count)), 1.0)
    amounts = amounts_of(workload, decision)
    seconds = device_seconds(amounts, decision, curves)
    order = np.lexsort((amounts.device_s, np.round(seconds / seconds.max(), _DIGITS)))
    places = ((np.arange(MOST_DEVICES) + 0.5) * count / MOST_DEVICES).astype(int)
    places[-1] = count - 1
    chosen: list[int] = np.sort(order[places]).tolist()
    return Crowd(tuple(chosen), count / MOST_DEVICES)
