"""The frame: header, sections, checksum."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.codec.codec import Segments
from cutlayer.codec.packet import (
    HEADER,
    TAGS,
    Packet,
    packet_bytes,
    packet_from_bytes,
    packet_to_bytes,
    read_packet,
    read_varint,
    varint,
)
from cutlayer.errors import PacketError

SHAPE = (2, 5, 3)
SECTIONS = {"code": b"abc", "levels": b"", "signs": b"de"}


def packed(lengths=(5, 5), sections=SECTIONS):
    return packet_to_bytes(Packet("staged", SHAPE, Segments(SHAPE, lengths), sections))


def signed(body):
    return body + struct.pack("<I", zlib.crc32(body))


@given(
    st.dictionaries(st.sampled_from(sorted(set(TAGS) - {"lengths"})), st.binary(max_size=300)),
    st.lists(st.integers(0, 5), min_size=2, max_size=2),
)
def test_a_packet_comes_back_and_is_as_long_as_foretold(sections, lengths):
    sent = Packet("staged", SHAPE, Segments(SHAPE, tuple(lengths)), sections)
    data = packet_to_bytes(sent)
    assert packet_from_bytes(data, "staged", SHAPE) == sent
    sizes = [len(section) for section in sections.values()]
    assert len(data) == packet_bytes(SHAPE, sent.segments, sizes)


def test_without_being_told_what_it_is_a_reader_learns_what_it_claims():
    frame = read_packet(packed((5, 4)))
    assert (frame.kind, frame.shape) == ("staged", SHAPE)
    assert list(frame.sections) == ["lengths", *SECTIONS]


@given(st.integers(0, 2**35 - 1))
def test_a_varint_comes_back(number):
    data = b"x" + varint(number)
    assert read_varint(data, 1) == (number, len(data))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 5 + b"\x01"])
def test_a_varint_that_does_not_end_is_refused(data):
    with pytest.raises(PacketError, match="does not end"):
        read_varint(data, 0)


def test_lengths_cost_a_section_of_three_bits_each():
    # tag, its length and one byte
    assert len(packed((5, 4))) == len(packed()) + 3


@pytest.mark.parametrize("size", [0, 1, 12])
def test_a_packet_cut_short_is_refused(size):
    with pytest.raises(PacketError, match=f"a packet of {size} bytes"):
        packet_from_bytes(packed()[:size], "staged", SHAPE)


def test_each_changed_bit_is_refused():
    whole = packed((5, 4))
    for place in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(PacketError):
            packet_from_bytes(bytes(damaged), "staged", SHAPE)


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ((b"GIF8", 2, 2, 1, 3), SHAPE, "starts with b'CUTL', this one with b'GIF8'"),
        ((b"CUTL", 1, 2, 1, 3), SHAPE, "version 1, expected 2"),
        ((b"CUTL", 2, 1, 1, 3), SHAPE, "kind 'none', expected 'staged'"),
        ((b"CUTL", 2, 77, 1, 3), SHAPE, "kind 77, which this version does not know"),
        ((b"CUTL", 2, 2, 5, 3), SHAPE, "dtype 5"),
        ((b"CUTL", 2, 2, 1, 5), SHAPE, "5 dimensions"),
        ((b"CUTL", 2, 2, 1, 3), (2, 5, 2**32 - 1), r"shape \(2, 5, 4294967295\), expected"),
    ],
)
def test_a_header_of_something_else_is_refused_though_it_is_signed(fields, shape, message):
    rest = packed()[HEADER.size + 4 * len(SHAPE) : -4]
    body = HEADER.pack(*fields) + struct.pack("<3I", *shape) + rest
    with pytest.raises(PacketError, match=message):
        packet_from_bytes(signed(body), "staged", SHAPE)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (b"\x01\xc8\x00", "an unknown or repeated one at byte 1"),
        (b"\x02\x02\x00\x02\x00", "an unknown or repeated one at byte 3"),
        (b"\x01\x02\x04abc", "sections of 4 bytes, expected 3"),
        (b"\x00abc", "sections of 0 bytes, expected 3"),
        (b"\x01", "an unknown or repeated one at byte 1"),
    ],
)
def test_sections_that_do_not_add_up_are_refused(sections, message):
    header = HEADER.pack(b"CUTL", 2, 2, 1, 3) + struct.pack("<3I", *SHAPE)
    with pytest.raises(PacketError, match=message):
        packet_from_bytes(signed(header + sections), "staged", SHAPE)


def test_lengths_beyond_the_tokens_are_refused():
    body = bytearray(packed((5, 4))[:-4])
    at = body.index(5 | 4 << 3, HEADER.size + 12 + 9)
    body[at] = 7 | 4 << 3
    with pytest.raises(PacketError, match="length 7 of sample 0"):
        packet_from_bytes(signed(bytes(body)), "staged", SHAPE)


def test_a_shape_past_32_bits_is_refused():
    shape = (1, 1, 2**32)
    with pytest.raises(PacketError, match="send smaller mini-batches"):
        packet_to_bytes(Packet("none", shape, Segments.full(shape), {}))
