"""What is sent uncompressed: tensors and labels."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.codec.codec import EMPTY, Segments
from cutlayer.codec.packet import Packet, packet_to_bytes, varint
from cutlayer.codec.raw import RawCodec, Targets, decode_targets, encode_targets, raw_bytes
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


def there_and_back(targets: Targets, lengths: list[int] | None, classes: int) -> Targets:
    payload = encode_targets(targets, lengths, classes)
    return decode_targets(payload, targets.labels.shape, lengths, classes)


@given(st.integers(1, 70_000), st.integers(1, 50), st.integers(0, 2**32))
def test_class_numbers_come_back(classes: int, count: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, classes, count)
    payload = encode_targets(Targets(labels), None, classes)
    size = 1 if classes <= 256 else 2 if classes <= 65_536 else 4
    assert len(payload) == count * size + 4
    assert np.array_equal(decode_targets(payload, (count,), None, classes).labels, labels)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**32))
def test_token_ids_come_back_and_padding_is_not_sent(lengths: list[int], seed: int) -> None:
    labels = token_ids(lengths, seed)
    payload = encode_targets(Targets(labels), lengths, 300)
    body = labels[labels != IGNORED_LABEL].astype("<u2").tobytes()
    assert payload == body + zlib.crc32(body).to_bytes(4, "little")
    assert np.array_equal(decode_targets(payload, labels.shape, lengths, 300).labels, labels)


def token_ids(lengths: list[int], seed: int) -> np.ndarray:
    shape = (len(lengths), max(lengths))
    labels = np.random.default_rng(seed).integers(0, 300, shape)
    labels[np.arange(shape[1])[None] >= np.array(lengths)[:, None]] = IGNORED_LABEL
    return labels


@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=6),
    st.floats(0, 1),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_labels_that_do_not_count_come_back_and_so_do_documents(
    rows: list[list[int]], part: float, packed: bool, seed: int
) -> None:
    lengths = [sum(row) for row in rows]
    labels = token_ids(lengths, seed)
    labels[np.random.default_rng(seed + 1).random(labels.shape) > part] = IGNORED_LABEL
    documents = tuple(tuple(row) for row in rows) if packed else None
    back = there_and_back(Targets(labels, documents), lengths, 300)
    assert np.array_equal(back.labels, labels)
    one_each = all(len(row) == 1 for row in rows)
    assert back.documents == (None if one_each else documents)


@given(st.lists(st.integers(-1, 6), min_size=1, max_size=20))
def test_a_sample_whose_class_does_not_count_is_named_too(classes: list[int]) -> None:
    labels = np.array([IGNORED_LABEL if each < 0 else each for each in classes])
    assert np.array_equal(there_and_back(Targets(labels), None, 7).labels, labels)


def test_an_answer_after_a_prompt_takes_three_bytes_more_than_its_labels() -> None:
    labels = np.full((1, 120), IGNORED_LABEL)
    labels[0, 100:] = 7
    payload = encode_targets(Targets(labels), [120], 49152)
    assert payload[:-4] == bytes((100, 20)) + np.full(20, 7, "<u2").tobytes()


@pytest.mark.parametrize("label", [-1, 10, 1000])
def test_labels_outside_are_not_sent(label: int) -> None:
    with pytest.raises(PacketError, match=rf"label {label} is outside 0\.\.9"):
        encode_targets(Targets(np.array([0, label])), None, 10)


def test_a_label_at_padding_is_not_sent() -> None:
    with pytest.raises(PacketError, match="a label at padding"):
        encode_targets(Targets(np.array([[1, 2]])), [1], 10)


@pytest.mark.parametrize("documents", [((1, 1),), ((2, 0, 1),), ((3,), (1, 2)), ((1, 1, 1, 1),)])
def test_documents_that_are_not_their_row_are_not_sent(documents) -> None:
    with pytest.raises(PacketError, match=r"do not make up rows of \[3\] tokens"):
        encode_targets(Targets(np.array([[1, 2, 3]]), documents), [3], 10)


def test_broken_payloads_are_refused() -> None:
    payload = encode_targets(Targets(np.array([1, 2, 3])), None, 200)
    for broken in (b"", payload[:-1], payload[1:], bytes([payload[0] ^ 1]) + payload[1:]):
        with pytest.raises(PacketError, match="checksum"):
            decode_targets(broken, (3,), None, 200)
    with pytest.raises(PacketError, match="3 bytes for 4 labels"):
        decode_targets(payload, (4,), None, 200)
    with pytest.raises(PacketError, match=r"outside 0\.\.2"):
        decode_targets(payload, (3,), None, 3)


@pytest.mark.parametrize(
    ("numbers", "values", "message"),
    [
        ([], b"", "does not end"),
        ([2, 5], b"\1\1", "5 tokens named where 3 are left"),
        ([2, 0, 3], b"", "0 tokens named where 3 are left"),
        ([0, 0, 5], b"", "0 tokens named where 5 are left"),
        ([2**40], b"", "does not end"),
        ([2, 3], b"\1\1", "2 bytes for 3 labels"),
        ([5], b"\x80", "does not end"),
        ([5, 1, 2, 3], b"", "3 tokens named where 2 are left"),
        ([5, 1, 2, 2, 1], b"", "1 bytes for 0 labels"),
        ([0, 5], b"\1\2\3\4\xff", "label 255 is outside"),
    ],
)
def test_names_that_no_encoder_sends_are_refused(numbers, values, message) -> None:
    body = b"".join(map(varint, numbers)) + values
    payload = body + zlib.crc32(body, 2**32 - 1).to_bytes(4, "little")
    with pytest.raises(PacketError, match=message):
        decode_targets(payload, (2, 4), [3, 2], 200)


def test_samples_of_one_label_have_no_documents() -> None:
    body = b"".join(map(varint, (0, 3, 1, 2))) + b"\1\1\1"
    payload = body + zlib.crc32(body, 2**32 - 1).to_bytes(4, "little")
    with pytest.raises(PacketError, match="5 bytes for 3 labels"):
        decode_targets(payload, (3,), None, 200)


@given(st.binary(max_size=40), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_whatever_comes_is_read_or_refused(body: bytes, lengths: list[int]) -> None:
    payload = body + zlib.crc32(body, 2**32 - 1).to_bytes(4, "little")
    try:
        found = decode_targets(payload, (len(lengths), max(lengths)), lengths, 100)
    except PacketError:
        return
    assert found.labels.max() < 100
    assert found.documents is None or [sum(row) for row in found.documents] == lengths
