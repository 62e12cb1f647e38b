"""The channel of measured traces: whose rate, when, on which share."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.channel.rates import LinkRates
from cutlayer.channel.traces import Trace, TraceChannel
from cutlayer.errors import ConfigError


def steps(*rates: float) -> Trace:
    """A rate for each second."""
    return Trace(np.arange(len(rates) + 1.0), np.array(rates))


CHANNEL = TraceChannel((steps(10.0, 20.0), steps(8.0)), (steps(100.0, 0.0, 40.0), steps(60.0)))
SHARES = (0.25, 0.5)


def test_rates_by_hand() -> None:
    # second 0: 10 and 100, 8 and 60; the broadcast reaches all at 60
    assert CHANNEL.rates(1, 0.0, SHARES) == (
        LinkRates(2.5, 25.0, 60.0, 10.0, 100.0),
        LinkRates(4.0, 30.0, 60.0, 8.0, 60.0),
    )
    # second 5 is the second uplink second (of 2) and the third downlink one (of 3)
    assert CHANNEL.rates(9, 5.0, SHARES)[0] == LinkRates(5.0, 10.0, 40.0, 20.0, 40.0)


def test_the_mean_is_over_whole_traces() -> None:
    mean = CHANNEL.mean_curves()
    shares = np.array(SHARES)
    assert mean.uplink.rate_bit_per_s(shares).tolist() == [15.0 / 4, 8.0 / 2]
    # 140 bits in 3 s
    assert mean.downlink.rate_bit_per_s(np.ones(2)).tolist() == [140.0 / 3, 60.0]


def test_an_outage_is_waited_for() -> None:
    # second 1 of the downlink is 0; twice as long, to second 3, holds 40 bits in 2 s
    assert CHANNEL.rates(1, 1.0, SHARES)[0].downlink_alone_bit_per_s == 20.0


def test_a_longer_window_is_a_longer_mean() -> None:
    channel = TraceChannel((steps(10.0, 20.0),), (steps(5.0),), window_s=2.0)
    assert channel.rates(1, 0.0, (1.0,))[0].uplink_bit_per_s == 15.0


@given(st.integers(1, 1000), st.floats(0, 1e6), st.floats(0.01, 0.5), st.floats(0.01, 0.5))
def test_rates_go_with_the_share_and_the_clock_alone(
    round_number: int, start_s: float, one: float, other: float
) -> None:
    first, second = CHANNEL.rates(round_number, start_s, (one, other))
    assert first.uplink_bit_per_s == one * first.uplink_alone_bit_per_s
    assert second.downlink_bit_per_s == other * second.downlink_alone_bit_per_s
    bands = {first.downlink_alone_bit_per_s, second.downlink_alone_bit_per_s}
    assert first.broadcast_bit_per_s == second.broadcast_bit_per_s == min(bands) > 0
    assert CHANNEL.rates(1, start_s, (one, other)) == (first, second)


def test_channels_that_cannot_be() -> None:
    one = (steps(1.0),)
    with pytest.raises(ConfigError, match="0 uplink and 0 downlink traces"):
        TraceChannel((), ())
    with pytest.raises(ConfigError, match="1 uplink and 2 downlink traces"):
        TraceChannel(one, one * 2)
    for window_s in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="window must be positive and finite"):
            TraceChannel(one, one, window_s)


def test_rounds_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="1 bandwidth shares for 2 devices"):
        CHANNEL.rates(1, 0.0, (0.5,))
    for start_s in (-0.1, math.nan, math.inf):
        with pytest.raises(ConfigError, match="finite and at least 0 s"):
            CHANNEL.rates(1, start_s, SHARES)
