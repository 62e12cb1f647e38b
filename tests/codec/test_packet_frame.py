"""What surrounds another package's bytes: rows without padding there and back, and its refusals."""

import numpy as np
import pytest

from cutlayer.codec.codec import EMPTY, Segments
from cutlayer.codec.packet import Packet, PacketFrame, packet_to_bytes
from cutlayer.codec.raw import RawCodec
from cutlayer.errors import PacketError

SHAPE = (2, 3, 4)
TENSOR = np.arange(24, dtype=np.float32).reshape(SHAPE)


@pytest.mark.parametrize("lengths", [None, (3, 1), (0, 2)])
def test_rows_go_there_and_back(lengths: tuple[int, ...] | None) -> None:
    tensor = TENSOR.copy()
    for sample, length in enumerate(lengths or ()):
        tensor[sample, length:] = np.nan  # padding may hold anything
    frame = PacketFrame.of(tensor, lengths)
    rows = frame.rows(tensor)
    assert rows.shape == frame.size == (sum(lengths or (3, 3)), 4)
    packet = frame.packet(rows.tobytes())
    assert len(packet) == frame.packet_bytes(rows.nbytes)
    read, coded = PacketFrame.read(packet, SHAPE)
    assert read == frame
    decoded = read.decoded(np.frombuffer(coded, np.float32).reshape(read.size), EMPTY)
    assert decoded.lengths == (lengths or (3, 3))
    assert np.array_equal(decoded.tensor, np.nan_to_num(tensor))


def test_a_tensor_of_another_rank_keeps_its_shape() -> None:
    tensor = TENSOR.reshape(2, 3, 2, 2)
    frame = PacketFrame.of(tensor, None)
    assert np.array_equal(frame.decoded(frame.rows(tensor), EMPTY).tensor, tensor)


def test_a_whole_tensors_packet_is_planned_with_its_length() -> None:
    assert PacketFrame.full(SHAPE) == PacketFrame.of(TENSOR, None)


def test_what_is_refused() -> None:
    frame = PacketFrame.of(TENSOR, None)
    with pytest.raises(PacketError, match="NaN or infinite"):
        frame.rows(np.full(SHAPE, np.inf, dtype=np.float32))
    with pytest.raises(PacketError, match="NaN or infinite"):
        frame.decoded(np.full(frame.size, np.nan, dtype=np.float32), EMPTY)
    with pytest.raises(PacketError, match=r"rows of shape \(5, 4\), expected \(6, 4\)"):
        frame.decoded(np.zeros((5, 4), dtype=np.float32), EMPTY)
    with pytest.raises(PacketError, match="of shape"):
        PacketFrame.read(frame.packet(b""), (2, 3, 5))
    other = RawCodec().encode(TENSOR, EMPTY, np.random.default_rng(0)).packet
    with pytest.raises(PacketError, match="kind 'none', expected 'other'"):
        PacketFrame.read(other, SHAPE)
    sections = {"values": b"", "signs": b""}
    two = packet_to_bytes(Packet("other", SHAPE, Segments.full(SHAPE), sections))
    with pytest.raises(PacketError, match="sections values, signs; expected 'values' alone"):
        PacketFrame.read(two, SHAPE)
