"""What a server makes of a round that has closed: how long it took, and the next one's shares.

Knows no link and no tensor. Shares are the allocation's, decided on what was measured: computing
times, bytes, and how much of the band each device's own line can carry.
"""

import logging
import math
from collections.abc import Callable
from typing import final

import numpy as np

from cutlayer.channel.curves import Curves
from cutlayer.errors import ConfigError
from cutlayer.net.measured import MeasuredRound, Shape, measured_round
from cutlayer.net.server_watch import ServerWatch
from cutlayer.planner.allocation import Allocation, Shares
from cutlayer.schemes.scheme import Phase
from cutlayer.timeline.result import RoundTimeline
from cutlayer.train.state import RunState
from cutlayer.units import BITS_PER_BYTE

_LOG = logging.getLogger(__name__)
# of its pace: who sends faster than this has a line that carries its share. The rest is for what
# latency takes of short payloads
_KEEPS_PACE = 0.75
# a line that carried its share may carry so much more: it is tried
_GROWTH = 1.25
# of its share: less is a device that hardly sends
_LEAST = 0.01


@final
class Controller:
    """A run's rounds. `curves`: each device's rates by its share, in round 1, 2, ... at so many
    seconds of the run; `shares`: those of the round in progress. `passed_s`: from the close before
    the last one, or the server's start, to the last one [s]."""

    def __init__(
        self,
        watch: ServerWatch,
        shape: Shape,
        allocation: Allocation,
        curves: Callable[[int, float], Curves],
        state: RunState,
    ) -> None:
        self.watch = watch
        self._shape = shape
        self._allocation = allocation
        self._curves = curves
        self.passed_s = 0.0
        self._closed_s = watch.now()
        self._most = np.ones(len(shape.steps))
        self.shares = self._allocated(state)

    def close(self) -> MeasuredRound | None:
        """How long the round took, which closes now; None if its beginning was not seen."""
        seen, now_s = self.watch.close(), self.watch.now()
        self.passed_s, self._closed_s = now_s - self._closed_s, now_s
        if seen is None or not seen.devices:
            return None
        return measured_round(seen, self._shape)

    def reopen(self, state: RunState, measured: MeasuredRound | None) -> Shares:
        """The shares of the round after `state`, of which the last one was `measured`."""
        if measured is not None:
            self._learn(measured)
        try:
            self.shares = self._allocated(state)
        except ConfigError as error:
            _LOG.warning("shares stay as they are: %s", error)
        return self.shares

    def _allocated(self, state: RunState) -> Shares:
        curves = self._curves(state.round + 1, state.virtual_time_s)
        # what no line carries is nobody's: it is left to all
        most = self._most / min(1.0, self._most.sum())
        allocation = self._allocation.within(tuple(np.minimum(most, 1.0).tolist()))
        shares = allocation.shares(state.round + 1, state.observed, curves)
        self._paces = np.array(
            [curve.rate_bit_per_s(np.array(shares)) for curve in (curves.uplink, curves.downlink)]
        )
        return shares

    def _learn(self, measured: MeasuredRound) -> None:
        """How large a share each device's line can carry: less than it had, if nothing that went
        either way kept its pace; else a little more than was thought."""
        for device, own in measured.devices.items():
            kept = float((np.array(_fastest_bit_s(own)) / self._paces[:, device]).max())
            if kept < _KEEPS_PACE:
                self._most[device] = max(kept, _LEAST) * self.shares[device]
            else:
                self._most[device] = min(1.0, _GROWTH * self._most[device])


def _fastest_bit_s(own: RoundTimeline) -> tuple[float, float]:
    """The best rate of each way: short payloads wait more than they send."""
    link, seconds = own.work[0].rates.link, own.phase_seconds(0)
    adapter_bits = BITS_PER_BYTE * float(own.work[0].amounts[Phase.ADAPTER_UP].sum())
    upload_s = seconds[Phase.ADAPTER_UP]
    upload_bit_s = adapter_bits / upload_s if upload_s > 0 else math.inf
    return max(link.uplink_bit_per_s, upload_bit_s), link.downlink_bit_per_s
