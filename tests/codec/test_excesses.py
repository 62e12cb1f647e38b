"""Excesses beyond the reach."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.codec.two_way import read_excesses, write_excesses
from cutlayer.errors import PacketError


@given(st.lists(st.one_of(st.integers(0, 3), st.integers(0, 32766)), max_size=50))
def test_excesses_come_back(values):
    section = write_excesses(np.array(values, dtype=np.int64))
    assert read_excesses(section, len(values), 32766).tolist() == values


@given(st.binary(max_size=20), st.integers(0, 20))
def test_other_bytes_never_do_worse_than_a_packet_error(section, count):
    try:
        excesses = read_excesses(section, count, 100)
    except PacketError:
        return
    assert excesses.size == count
    assert ((excesses >= 0) & (excesses <= 100)).all()


@pytest.mark.parametrize(
    ("section", "count", "message"),
    [
        (b"\0", 0, "1 bytes, expected none"),
        (b"", 2, "none, expected 2"),
        (b"\x07\x01\x7f", 1, "127, expected at most 100"),
    ],
)
def test_what_is_wrong_is_said(section, count, message):
    with pytest.raises(PacketError, match=message):
        read_excesses(section, count, 100)
