"""The frame: header, sections, checksum."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.codec import packet
from cutlayer.codec.packet import HEADER, Packet, pack, unpack
from cutlayer.codec.segments import Segments
from cutlayer.errors import PacketError

SHAPE = (2, 5, 3)


def packed(lengths=(5, 5), sections=(b"abc", b"", b"de")):
    return pack(Packet("paper", Segments(SHAPE, lengths), sections))


def signed(body):
    return body + struct.pack("<I", zlib.crc32(body))


@given(
    st.lists(st.binary(max_size=20), max_size=5),
    st.lists(st.integers(0, 5), min_size=2, max_size=2),
)
def test_a_packet_comes_back(sections, lengths):
    sent = Packet("none", Segments(SHAPE, tuple(lengths)), tuple(sections))
    assert unpack(pack(sent), "none", SHAPE, len(sections)) == sent


def test_overhead_is_the_length_of_a_packet_of_empty_sections():
    assert len(packed(sections=(b"", b"", b""))) == packet.overhead_bytes(3)


def test_lengths_cost_nothing_without_padding_and_three_bits_each_with():
    assert len(packed((5, 4))) == len(packed()) + 1


@pytest.mark.parametrize("size", [0, 1, 10, 39])
def test_a_packet_cut_short_is_refused(size):
    with pytest.raises(PacketError, match=f"a packet of {size} bytes"):
        unpack(packed()[:size], "paper", SHAPE, 3)


def test_each_changed_bit_is_refused():
    whole = packed((5, 4))
    for place in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(PacketError):
            unpack(bytes(damaged), "paper", SHAPE, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((b"GIF8", 1, 2, 1, 4, *SHAPE), "starts with b'CUTL', this one with b'GIF8'"),
        ((b"CUTL", 9, 2, 1, 4, *SHAPE), "version 9, expected 1"),
        ((b"CUTL", 1, 1, 1, 4, *SHAPE), "codec 'none', expected 'paper'"),
        ((b"CUTL", 1, 77, 1, 4, *SHAPE), "codec number 77, expected 'paper'"),
        ((b"CUTL", 1, 2, 5, 4, *SHAPE), "dtype 5"),
        ((b"CUTL", 1, 2, 1, 3, *SHAPE), "3 sections, expected 4"),
        ((b"CUTL", 1, 2, 1, 4, 2, 5, 2**32 - 1), r"shape \(2, 5, 4294967295\), expected"),
    ],
)
def test_a_header_of_something_else_is_refused_though_it_is_signed(fields, message):
    body = HEADER.pack(*fields) + packed()[HEADER.size : -4]
    with pytest.raises(PacketError, match=message):
        unpack(signed(body), "paper", SHAPE, 3)


@pytest.mark.parametrize("claimed", [0, 2, 4, 2**32 - 1])
def test_section_lengths_that_do_not_add_up_are_refused(claimed):
    body = bytearray(packed()[:-4])
    struct.pack_into("<I", body, HEADER.size + 4, claimed)
    with pytest.raises(PacketError, match=f"sections of {claimed + 2} bytes in all, expected 5"):
        unpack(signed(bytes(body)), "paper", SHAPE, 3)


def test_lengths_beyond_the_tokens_are_refused():
    body = bytearray(packed((5, 4))[:-4])
    at = HEADER.size + 4 * 4
    assert body[at] == 5 | 4 << 3
    body[at] = 7 | 4 << 3
    with pytest.raises(PacketError, match="length 7 of sample 0"):
        unpack(signed(bytes(body)), "paper", SHAPE, 3)


def test_a_shape_past_32_bits_is_refused():
    with pytest.raises(PacketError, match="send smaller mini-batches"):
        pack(Packet("none", Segments.full((1, 1, 2**32)), ()))
