"""A channel that replays measured rates: each device has a trace each way.

Knows no signal-to-noise ratio. A trace is what its device would have with the whole band to itself,
as a device alone in a cell measures it; on a share of the band it has that share of the rate.
"""

from dataclasses import dataclass
from typing import final

import numpy as np

from cutlayer.channel.curves import Curves, ProportionalRates
from cutlayer.channel.rates import Channel
from cutlayer.channel.trace import Trace
from cutlayer.errors import ConfigError


@final
@dataclass(frozen=True, eq=False)
class TraceChannel(Channel):
    """The rates at the second a round begins; past its end a trace begins again.

    Rates are constant within a round, so each is the trace's mean over `window_s` seconds from the
    round's start (longer where all of that is an outage; see `Trace.mean_bit_per_s`). Rounds that
    last far longer than the window see only how their first seconds were: give it about a round's
    length. Raises ConfigError unless there is a trace each way for each device and the window is
    positive.
    """

    uplink: tuple[Trace, ...]
    downlink: tuple[Trace, ...]
    window_s: float = 1.0

    def __post_init__(self) -> None:
        if not self.uplink or len(self.uplink) != len(self.downlink):
            raise ConfigError(
                f"{len(self.uplink)} uplink and {len(self.downlink)} downlink traces: give one "
                "each way for each device"
            )
        # the window is checked where it is used; here so that a run does not begin with a wrong one
        self.uplink[0].mean_bit_per_s(0.0, self.window_s)

    def curves(self, round_number: int, start_s: float) -> Curves:
        """By the clock alone: the round's number says nothing.

        Raises ConfigError for a start before 0.
        """
        return Curves(
            _mean(self.uplink, start_s, self.window_s), _mean(self.downlink, start_s, self.window_s)
        )

    def mean_curves(self) -> Curves:
        """Each trace's mean over its whole length."""
        return Curves(_mean(self.uplink), _mean(self.downlink))

    @property
    def devices(self) -> int:
        """How many devices it serves."""
        return len(self.uplink)


def _mean(
    traces: tuple[Trace, ...], start_s: float = 0.0, window_s: float | None = None
) -> ProportionalRates:
    """Each trace's mean over a window; None: over its length."""
    rates = [trace.mean_bit_per_s(start_s, window_s or trace.length_s) for trace in traces]
    return ProportionalRates(np.array(rates))
