"""The codec that compresses nothing."""

import numpy as np
import pytest

from cutlayer.codec.packet import Packet, pack
from cutlayer.codec.raw import RawCodec
from cutlayer.codec.segments import Segments
from cutlayer.errors import PacketError

RNG = np.random.default_rng(0)


def test_every_bit_comes_back():
    bits = np.random.default_rng(1).integers(0, 2**32, size=(3, 4, 5), dtype=np.uint32)
    tensor = bits.view(np.float32)
    tensor[~np.isfinite(tensor)] = -0.0
    back = RawCodec().decode(RawCodec().encode(tensor, None, RNG), (3, 4, 5)).tensor
    assert back.tobytes() == tensor.tobytes()


def test_the_values_stand_in_the_packet_in_little_endian():
    packet = RawCodec().encode(np.full((1, 1, 1), 1.5, dtype=np.float32), None, RNG)
    assert packet[-8:-4] == b"\x00\x00\xc0\x3f"


def test_padding_takes_no_bytes():
    tensor = np.ones((2, 8, 16), dtype=np.float32)
    shorter = RawCodec().encode(tensor, (8, 3), RNG)
    # five tokens less, two lengths of four bits more
    assert len(shorter) == RawCodec().expected_bytes((2, 8, 16)) - 5 * 16 * 4 + 1


def test_its_expected_bytes_are_exact():
    tensor = np.ones((3, 4, 5), dtype=np.float32)
    assert len(RawCodec().encode(tensor, None, RNG)) == RawCodec().expected_bytes((3, 4, 5))


@pytest.mark.parametrize(
    ("values", "message"),
    [(b"\x00" * 4, "values: 4 bytes, expected 8"), (b"\x00\x00\xc0\x7f" * 2, "NaN or infinity")],
)
def test_values_that_no_encoder_sends_are_refused(values, message):
    forged = pack(Packet("none", Segments.full((1, 1, 2)), (values,)))
    with pytest.raises(PacketError, match=message):
        RawCodec().decode(forged, (1, 1, 2))
