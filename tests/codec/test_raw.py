"""The codec that compresses nothing."""

import numpy as np
import pytest

from cutlayer.codec.codec import EMPTY
from cutlayer.codec.packet import Packet, packet_to_bytes
from cutlayer.codec.raw import RawCodec, raw_bytes
from cutlayer.codec.segments import Segments
from cutlayer.errors import PacketError


def encoded(tensor, lengths=None):
    return RawCodec().encode(tensor, EMPTY, np.random.default_rng(0), lengths=lengths).packet


def test_every_bit_comes_back():
    bits = np.random.default_rng(1).integers(0, 2**32, size=(3, 4, 5), dtype=np.uint32)
    tensor = bits.view(np.float32)
    tensor[~np.isfinite(tensor)] = -0.0
    back = RawCodec().decode(encoded(tensor), (3, 4, 5), EMPTY).tensor
    assert back.tobytes() == tensor.tobytes()


def test_the_values_stand_in_the_packet_in_little_endian():
    packet = encoded(np.full((1, 1, 1), 1.5, dtype=np.float32))
    assert packet[-8:-4] == b"\x00\x00\xc0\x3f"


@pytest.mark.parametrize("lengths", [None, (8, 3), (0, 0)])
def test_its_length_is_known_beforehand(lengths):
    tensor = np.ones((2, 8, 16), dtype=np.float32)
    assert len(encoded(tensor, lengths)) == raw_bytes((2, 8, 16), lengths)
    assert RawCodec().expected_bytes((2, 8, 16)) == raw_bytes((2, 8, 16), None)


@pytest.mark.parametrize(
    ("values", "message"),
    [(b"\x00" * 4, "values: 4 bytes, expected 8"), (b"\x00\x00\xc0\x7f" * 2, "NaN or infinity")],
)
def test_values_that_no_encoder_sends_are_refused(values, message):
    shape = (1, 1, 2)
    forged = packet_to_bytes(Packet("none", shape, Segments.full(shape), {"values": values}))
    with pytest.raises(PacketError, match=message):
        RawCodec().decode(forged, shape, EMPTY)


def test_sections_of_something_else_are_refused():
    shape = (1, 1, 2)
    forged = packet_to_bytes(Packet("none", shape, Segments.full(shape), {"code": b""}))
    with pytest.raises(PacketError, match="sections code; expected 'values' alone"):
        RawCodec().decode(forged, shape, EMPTY)
