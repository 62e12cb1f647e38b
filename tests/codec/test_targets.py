"""Labels on the wire: exact, as small as their type allows, and nothing else is believed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.codec.raw import decode_targets, encode_targets
from cutlayer.errors import PacketError
from cutlayer.spec import IGNORED_LABEL


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
