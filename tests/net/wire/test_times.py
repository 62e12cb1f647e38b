"""A device's times on the wire: what was told is read, and what no clock shows is not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import FrameError
from cutlayer.net.wire.frames import times_bytes, times_from_bytes, times_to_bytes
from cutlayer.net.wire.messages import DeviceTimes, StepTimes

SECONDS = st.floats(-1e12, 1e12)
STEPS = st.lists(st.tuples(SECONDS, SECONDS, SECONDS), max_size=5)


@given(st.tuples(SECONDS, SECONDS, SECONDS), STEPS)
def test_what_was_told_is_read(
    edges: tuple[float, float, float], steps: list[tuple[float, float, float]]
) -> None:
    times = DeviceTimes(*edges, tuple(StepTimes(*step) for step in steps))
    data = times_to_bytes(times)
    assert times_from_bytes(data) == times
    assert len(data) == times_bytes(len(steps))


def test_nothing_told_is_nothing() -> None:
    assert times_from_bytes(times_to_bytes(None)) is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bytes(16), "in 16 bytes"),
        (bytes(32), "in 32 bytes"),
        (np.array([0.0, np.nan, 0.0]).tobytes(), "impossible times"),
        (np.array([0.0, np.inf, 0.0]).tobytes(), "impossible times"),
        (np.array([0.0, 0.0, -1e300]).tobytes(), "impossible times"),
    ],
)
def test_what_is_no_time_is_told(data: bytes, words: str) -> None:
    with pytest.raises(FrameError, match=words):
        times_from_bytes(data)
