"""Frequency tables in 12 bits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.codec.frequencies import (
    FREQUENCY_SUM,
    normalised,
    table_from_bytes,
    table_to_bytes,
)
from cutlayer.errors import PacketError

histograms = st.lists(
    st.one_of(st.just(0), st.integers(0, 5), st.integers(0, 10**7)), min_size=1, max_size=256
).filter(any)


@given(histograms)
def test_a_table_sums_to_4096_and_has_every_symbol_that_occurs(histogram):
    counts = np.array(histogram)
    frequencies = normalised(counts)
    assert frequencies.sum() == FREQUENCY_SUM
    np.testing.assert_array_equal(frequencies > 0, counts > 0)


@given(st.lists(st.integers(1000, 4000), min_size=1, max_size=256))
def test_without_rare_symbols_each_is_rounded_up_or_down(histogram):
    # each share is at least 1000 / (256 · 4000), so that none has to be raised to 1
    exact = np.array(histogram) * FREQUENCY_SUM / sum(histogram)
    frequencies = normalised(np.array(histogram))
    assert (frequencies >= np.floor(exact)).all()
    assert (frequencies <= np.ceil(exact)).all()


def test_the_most_frequent_symbols_pay_for_the_rare():
    histogram = np.array([10**6, *[1] * 255])
    assert normalised(histogram).tolist() == [FREQUENCY_SUM - 255, *[1] * 255]


@given(histograms)
def test_a_table_comes_back_from_its_bytes(histogram):
    frequencies = normalised(np.array(histogram))
    table = table_to_bytes(frequencies)
    assert len(table) <= 2 * frequencies.size
    np.testing.assert_array_equal(table_from_bytes(table, frequencies.size), frequencies)


def test_zeros_between_take_two_bytes():
    histogram = np.array([1, *[0] * 254, 1])
    # 2048 = 16 · 128: seven zero bits and a flag, then 16; 254 zeros
    assert table_to_bytes(normalised(histogram)) == b"\x80\x10\x00\xfd\x80\x10"


def test_zeros_at_the_end_take_no_bytes():
    # 4096 = 32 · 128: seven zero bits and a flag, then 32
    assert table_to_bytes(normalised(np.array([5, 0, 0, 0]))) == b"\x80\x20"


@pytest.mark.parametrize(
    "table",
    [
        b"",
        b"\x80",
        b"\x80\x1f",
        b"\x80\x21",
        b"\x80\x20\x01",
        b"\x00\x01\x80\x20",
        b"\x80\x10\x00",
        bytes(5),
    ],
)
def test_a_table_of_another_sum_or_too_many_symbols_is_refused(table):
    with pytest.raises(PacketError, match="frequency table"):
        table_from_bytes(table, 2)
