"""Bits in bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.codec.entropy import (
    pack_flags,
    pack_integers,
    packed_bytes,
    unpack_flags,
    unpack_integers,
)
from cutlayer.errors import PacketError


def test_the_first_flag_is_the_lowest_bit():
    flags = np.array([1, 0, 0, 0, 0, 0, 0, 0, 1, 1], dtype=np.bool_)
    assert pack_flags(flags) == b"\x01\x03"


def test_an_integer_starts_with_its_lowest_bit():
    # 3, 1, 2 in three bits each: 2 << 6 | 1 << 3 | 3 = 139, and one bit too many for a byte
    assert pack_integers(np.array([3, 1, 2]), 3) == bytes((139, 0))


@given(st.lists(st.booleans(), max_size=40))
def test_flags_come_back(flags):
    packed = pack_flags(np.array(flags, dtype=np.bool_))
    assert unpack_flags(packed, len(flags), "flags").tolist() == flags


@given(
    st.integers(0, 40).flatmap(
        lambda w: st.tuples(st.just(w), st.lists(st.integers(0, 2**w - 1), max_size=20))
    )
)
def test_integers_come_back_in_as_many_bytes_as_promised(case):
    width, values = case
    packed = pack_integers(np.array(values, dtype=np.int64), width)
    assert len(packed) == packed_bytes(len(values), width)
    assert unpack_integers(packed, len(values), width, "values").tolist() == values


@pytest.mark.parametrize("packed", [b"", b"\x00", b"\x00\x00\x00"])
def test_a_wrong_number_of_bytes_is_refused(packed):
    with pytest.raises(PacketError, match=f"signs: {len(packed)} bytes, expected 2"):
        unpack_flags(packed, 9, "signs")
