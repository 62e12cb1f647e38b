"""A trace's mean over windows: by hand, against a sum over milliseconds, and its laws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.channel.traces import Trace
from cutlayer.errors import ConfigError

# 10 bit/s for 1 s, nothing for 2 s, 40 bit/s for 1 s, and again
TRACE = Trace(np.array([0.0, 1.0, 3.0, 4.0]), np.array([10.0, 0.0, 40.0]))


@pytest.mark.parametrize(
    ("start_s", "window_s", "by_hand"),
    [
        (0.0, 1.0, 10.0),
        (0.5, 1.0, 5.0),  # 5 bits of the first piece
        (3.5, 1.0, 25.0),  # 20 bits, then 5 of the next time round
        (0.0, 4.0, 12.5),  # 50 bits in 4 s
        (2.5, 8.0, 12.5),  # twice around
        (2.5, 9.0, 120.0 / 9),  # and to 3.5 once more, 20 bits
        (400.5, 1.0, 5.0),  # a hundred times around
        (1.0, 1.0, 12.5),  # an outage: 1 s and 2 s hold nothing, 4 s hold 50 bits
        (1.5, 1.0, 20.0 / 2),  # 2 s, to 3.5, hold 20 bits
    ],
)
def test_means_by_hand(start_s: float, window_s: float, by_hand: float) -> None:
    assert TRACE.mean_bit_per_s(start_s, window_s) == pytest.approx(by_hand, rel=1e-12)


def test_one_rate_for_ever() -> None:
    assert Trace(np.array([0.0, 1.0]), np.array([7.0])).mean_bit_per_s(12.3, 4.56) == pytest.approx(
        7.0, rel=1e-12
    )


# rates of 0, or large enough that a tenth of one is not 0
rates_bit_per_s = st.just(0.0) | st.floats(1e-3, 1e6)
traces = st.lists(st.tuples(st.floats(0.01, 10), rates_bit_per_s), min_size=1, max_size=12).filter(
    lambda pieces: any(rate >= 1 for _, rate in pieces)
)


def made(pieces: list[tuple[float, float]]) -> Trace:
    lengths, rates = zip(*pieces, strict=True)
    return Trace(np.concatenate([[0.0], np.cumsum(lengths)]), np.array(rates))


@given(traces, st.floats(0, 1e4), st.floats(0.01, 100))
def test_a_mean_is_between_its_ends(
    pieces: list[tuple[float, float]], start_s: float, window_s: float
) -> None:
    trace = made(pieces)
    mean = trace.mean_bit_per_s(start_s, window_s)
    # sums of a few dozen terms
    assert 0 < mean <= trace.rate_bit_per_s.max() * (1 + 1e-9)


@given(traces, st.integers(1, 5), st.floats(0, 0.999))
def test_whole_turns_have_the_mean_of_the_trace(
    pieces: list[tuple[float, float]], turns: int, share: float
) -> None:
    trace = made(pieces)
    mean = float(np.diff(trace.edges_s) @ trace.rate_bit_per_s) / trace.length_s
    ours = trace.mean_bit_per_s(share * trace.length_s, turns * trace.length_s)
    # the window's end is off by a rounding of its length, at up to 1e6 bit/s against 1 bit/s for
    # 0.01 s at least: 1e6 * 600 s * 2e-16 / 0.01 bits
    assert ours == pytest.approx(mean, rel=1e-4)


@given(traces, st.floats(0, 100), st.floats(0.01, 10), st.floats(0.5, 100))
def test_rates_scale(
    pieces: list[tuple[float, float]], start_s: float, window_s: float, factor: float
) -> None:
    trace = made(pieces)
    scaled = Trace(trace.edges_s, factor * trace.rate_bit_per_s)
    assert scaled.mean_bit_per_s(start_s, window_s) == pytest.approx(
        factor * trace.mean_bit_per_s(start_s, window_s), rel=1e-12
    )


@pytest.mark.parametrize(
    ("edges", "rates", "message"),
    [
        ([0.0], [], "0 rates and 1 edges"),
        ([0.0, 1.0], [1.0, 2.0], "2 rates and 2 edges"),
        ([1.0, 2.0], [1.0], "must start at 0 s and increase"),
        ([0.0, 0.0], [1.0], "must start at 0 s and increase"),
        ([0.0, 2.0, 1.0], [1.0, 1.0], "must start at 0 s and increase"),
        ([0.0, math.inf], [1.0], "must start at 0 s and increase"),
        ([0.0, math.nan], [1.0], "must start at 0 s and increase"),
        ([0.0, 1.0], [-1.0], "finite and at least 0"),
        ([0.0, 1.0], [math.nan], "finite and at least 0"),
        ([0.0, 1.0], [math.inf], "finite and at least 0"),
        ([0.0, 1.0, 2.0], [0.0, 0.0], "lets nothing through"),
    ],
)
def test_traces_that_cannot_be(edges: list[float], rates: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Trace(np.array(edges), np.array(rates))


@pytest.mark.parametrize("start_s", [-1.0, math.nan, math.inf])
def test_starts_that_cannot_be(start_s: float) -> None:
    with pytest.raises(ConfigError, match="finite and at least 0 s"):
        TRACE.mean_bit_per_s(start_s, 1.0)


@pytest.mark.parametrize("window_s", [0.0, -1.0, math.nan, math.inf])
def test_windows_that_cannot_be(window_s: float) -> None:
    with pytest.raises(ConfigError, match="window must be positive and finite"):
        TRACE.mean_bit_per_s(0.0, window_s)
