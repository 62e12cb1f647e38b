"""What is sent uncompressed: tensors and labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.codec.codec import EMPTY, Segments
from cutlayer.codec.packet import Packet, packet_to_bytes
from cutlayer.codec.raw import RawCodec, decode_targets, encode_targets, raw_bytes
from cutlayer.errors import PacketError
from cutlayer.spec import IGNORED_LABEL


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


@given(st.integers(1, 70_000), st.integers(1, 50), st.integers(0, 2**32))
def test_class_numbers_come_back(classes: int, count: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, classes, count)
    payload = encode_targets(labels, classes)
    size = 1 if classes <= 256 else 2 if classes <= 65_536 else 4
    assert len(payload) == count * size + 4
    assert np.array_equal(decode_targets(payload, (count,), None, classes), labels)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**32))
def test_token_ids_come_back_and_padding_is_not_sent(lengths: list[int], seed: int) -> None:
    shape = (len(lengths), max(lengths))
    labels = np.random.default_rng(seed).integers(0, 300, shape)
    labels[np.arange(shape[1])[None] >= np.array(lengths)[:, None]] = IGNORED_LABEL
    payload = encode_targets(labels, 300)
    assert len(payload) == 2 * sum(lengths) + 4
    assert np.array_equal(decode_targets(payload, shape, lengths, 300), labels)


@pytest.mark.parametrize("label", [-1, 10, 1000])
def test_labels_outside_are_not_sent(label: int) -> None:
    with pytest.raises(PacketError, match=rf"label {label} is outside 0\.\.9"):
        encode_targets(np.array([0, label]), 10)


def test_broken_payloads_are_refused() -> None:
    payload = encode_targets(np.array([1, 2, 3]), 200)
    for broken in (b"", payload[:-1], payload[1:], bytes([payload[0] ^ 1]) + payload[1:]):
        with pytest.raises(PacketError, match="checksum"):
            decode_targets(broken, (3,), None, 200)
    with pytest.raises(PacketError, match="3 bytes for 4 labels"):
        decode_targets(payload, (4,), None, 200)
    with pytest.raises(PacketError, match=r"outside 0\.\.2"):
        decode_targets(payload, (3,), None, 3)
