"""What the kernel's token bucket is told of a rate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.lab.network import FRAME_BYTES, WIRE_PER_PAYLOAD, payload_filter

RATES = st.floats(1e3, 1e10)


def test_headers_of_a_long_transfer() -> None:
    """Counted by hand: 1448 bytes of a stream in a frame of 1514, 16 KiB of payload and 36 bytes in
    a record."""
    assert pytest.approx(1514 / 1448 * 16406 / 16384) == WIRE_PER_PAYLOAD


def test_the_words_of_tc() -> None:
    """8 Mbit/s of payload are 8,375,873 bit/s on the wire; a burst of 1514 bytes and half a
    millisecond; a second of queue."""
    words = payload_filter(8e6).words()
    rate, burst, limit = "8375873bit", "2038b", "1046985b"
    assert words == ("tbf", "rate", rate, "burst", burst, "limit", limit)


@given(RATES)
def test_a_frame_always_fits(rate_bit_s: float) -> None:
    """A bucket smaller than a frame lets nothing through; a queue smaller than the burst drops."""
    made = payload_filter(rate_bit_s)
    assert made.burst_bytes >= FRAME_BYTES
    assert made.limit_bytes > 10 * FRAME_BYTES


@given(RATES, st.floats(1.0, 100.0))
def test_more_payload_is_more_of_everything(rate_bit_s: float, factor: float) -> None:
    less, more = payload_filter(rate_bit_s), payload_filter(factor * rate_bit_s)
    assert less.rate_bit_s <= more.rate_bit_s
    assert less.burst_bytes <= more.burst_bytes
    assert less.limit_bytes <= more.limit_bytes
    # rounded to a bit each
    assert abs(more.rate_bit_s - factor * less.rate_bit_s) <= 1 + factor
