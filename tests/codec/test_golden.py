"""Packets pinned byte for byte: a change here is a new packet version.

The values lie on quantisation points, so no random draw matters.
"""

from pathlib import Path

import numpy as np
import pytest

from cutlayer.codec.paper import PaperCodec
from cutlayer.codec.raw import RawCodec

GOLDEN = Path(__file__).parent / "golden"
SHAPE = (2, 3, 8)
CASES = [
    ("paper", PaperCodec(0.5, 8), None),
    ("paper_ragged", PaperCodec(0.5, 8), (3, 2)),
    ("none_ragged", RawCodec(), (3, 2)),
]


def tensor():
    """Magnitudes 1..9 on every other place and 0.25 between them; some signs."""
    place = np.arange(24)
    magnitudes = np.where(place % 2 == 0, 1 + place // 2 * 5 % 9, 0.25)
    sample = np.where(place % 3 == 0, -magnitudes, magnitudes)
    return np.stack([sample, sample[::-1]]).reshape(SHAPE).astype(np.float32)


@pytest.mark.parametrize(("name", "codec", "lengths"), CASES)
def test_the_packet_is_the_golden_one(name, codec, lengths):
    golden = bytes.fromhex((GOLDEN / f"{name}.hex").read_text())
    assert codec.encode(tensor(), lengths, np.random.default_rng(0)).hex() == golden.hex()


@pytest.mark.parametrize(("name", "codec", "lengths"), CASES)
def test_the_golden_packet_holds_the_tensor(name, codec, lengths):
    decoded = codec.decode(bytes.fromhex((GOLDEN / f"{name}.hex").read_text()), SHAPE)
    expected = tensor()
    if codec.name == "paper":
        expected[np.abs(expected) < 1] = 0
    for sample, length in enumerate(lengths or (3, 3)):
        expected[sample, length:] = 0
    np.testing.assert_array_equal(decoded.tensor, expected)
    assert decoded.lengths == (lengths or (3, 3))
