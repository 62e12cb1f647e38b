"""Stochastic quantisation: points, neighbours, no bias, extremes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cutlayer.codec.quantise import Scales, dequantise, quantise, scales_from_bytes, scales_of
from cutlayer.errors import PacketError


def round_trip(magnitudes, counts, intervals, seed=0):
    scales = scales_of(magnitudes, counts)
    rng = np.random.default_rng(seed)
    levels = quantise(magnitudes, counts, scales, intervals, rng)
    return scales, levels, dequantise(levels, counts, scales, intervals)


def test_points_divide_the_span_of_each_sample():
    # two samples of five and two entries, each entry on a point of its own sample
    magnitudes = np.array([1, 2, 3, 4, 5, 10, 50], dtype=np.float32)
    counts = np.array([5, 2])
    scales, levels, values = round_trip(magnitudes, counts, 4)
    assert (scales.low.tolist(), scales.high.tolist()) == ([1, 10], [5, 50])
    assert levels.tolist() == [0, 1, 2, 3, 4, 0, 4]
    np.testing.assert_array_equal(values, magnitudes)


finite = st.floats(0, float(np.finfo(np.float32).max), width=32, allow_subnormal=True)


@given(hnp.arrays(np.float32, st.integers(1, 20), elements=finite), st.integers(1, 255))
def test_each_entry_goes_to_one_of_its_two_neighbours(magnitudes, intervals):
    scales, levels, values = round_trip(magnitudes, np.array([magnitudes.size]), intervals)
    low, high = float(scales.low[0]), float(scales.high[0])
    # three float32 roundings before the floor move an entry by at most 3 · 2^-24 of the span, the
    # point's own rounding by 2^-24 of s_max, or by half the least subnormal, 2^-150
    slack = 4 * 2.0**-24 * high + 2.0**-150
    step = (high - low) / intervals
    assert np.isfinite(values).all()
    assert levels.max(initial=0) <= intervals
    assert (np.abs(values.astype(np.float64) - magnitudes) <= step + slack).all()
    # the extremes are points
    assert values[np.argmin(magnitudes)] == scales.low[0]
    assert values[np.argmax(magnitudes)] == scales.high[0]


@pytest.mark.parametrize("intervals", [1, 7, 255])
def test_the_mean_of_many_roundings_is_the_value(intervals):
    repeats = 40_000
    some = np.array([0.5, 0.7, 1.31, 2.0, 2.9, 3.0], dtype=np.float32)
    magnitudes = np.tile(some, repeats)
    _, _, values = round_trip(magnitudes, np.array([magnitudes.size]), intervals)
    mean = values.astype(np.float64).reshape(repeats, -1).mean(axis=0)
    # a two-point variable `step` apart has a standard deviation of at most step / 2; five of the
    # mean's. The second term is the float32 slack of the test above.
    step = 2.5 / intervals
    tolerance = 5 * step / 2 / np.sqrt(repeats) + 4 * 2.0**-24 * 3
    assert (np.abs(mean - some) < tolerance).all()


def test_the_share_rounded_up_is_the_place_between_the_points():
    magnitudes = np.repeat(np.array([0, 0.25, 1], dtype=np.float32), [1, 10_000, 1])
    _, levels, _ = round_trip(magnitudes, np.array([magnitudes.size]), 1)
    # binomial(10000, 1/4): standard deviation 43.3; five of them
    assert abs(int(levels[1:-1].sum()) - 2500) < 217


@pytest.mark.parametrize("value", [0.0, 1e-45, 3.25, float(np.finfo(np.float32).max)])
def test_equal_magnitudes_come_back_exactly(value):
    magnitudes = np.full(9, value, dtype=np.float32)
    _, levels, values = round_trip(magnitudes, np.array([9]), 7)
    assert not levels.any()
    np.testing.assert_array_equal(values, magnitudes)


def test_zero_stays_zero_beside_others():
    magnitudes = np.array([0, 0, 1e-3, 5], dtype=np.float32)
    for seed in range(20):
        assert round_trip(magnitudes, np.array([4]), 3, seed)[2][:2].tolist() == [0, 0]


def test_a_sample_that_keeps_nothing_has_no_scale():
    magnitudes = np.array([2, 4], dtype=np.float32)
    scales, _, values = round_trip(magnitudes, np.array([0, 2, 0]), 7)
    assert (scales.low.tolist(), scales.high.tolist()) == ([0, 2, 0], [0, 4, 0])
    np.testing.assert_array_equal(values, magnitudes)


def scales(low, high):
    return Scales(np.array([low], dtype=np.float32), np.array([high], dtype=np.float32))


def test_scales_come_back():
    back = scales_from_bytes(scales(1.5, 2.5).to_bytes(), 1)
    assert (back.low.tolist(), back.high.tolist()) == ([1.5], [2.5])


@pytest.mark.parametrize(
    ("low", "high"), [(2, 1), (-1, 1), (np.nan, 1), (0, np.nan), (0, np.inf), (np.inf, np.inf)]
)
def test_scales_out_of_order_are_refused(low, high):
    with pytest.raises(PacketError, match="s_min <= s_max"):
        scales_from_bytes(scales(low, high).to_bytes(), 1)


def test_scales_of_another_batch_are_refused():
    with pytest.raises(PacketError, match="scales: 8 bytes, expected 16"):
        scales_from_bytes(scales(1, 2).to_bytes(), 2)
