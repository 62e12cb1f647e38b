"""Packets pinned byte for byte: a change here is a new packet version.

`python tests/codec/test_golden.py` writes them anew.
"""

from pathlib import Path

import numpy as np
import pytest

from cutlayer.codec import presets
from cutlayer.codec.codec import EMPTY
from cutlayer.codec.dead_zone import DeadZone
from cutlayer.codec.memories import Delta
from cutlayer.codec.quantisers import Integer, RelativeStep
from cutlayer.codec.raw import RawCodec
from cutlayer.codec.references import References
from cutlayer.codec.staged import StagedCodec
from cutlayer.codec.two_way import TwoWay

GOLDEN = Path(__file__).parent / "golden"
SHAPE = (2, 3, 8)
CASES = {
    "none": RawCodec(),
    "paper": presets.paper(0.5, 8).up,
    "paper_rans": presets.paper_rans(0.5, 8).up,
    "fast": presets.fast().up,
    "int2": StagedCodec(Integer(2), TwoWay()),
    "dead_zone": StagedCodec(DeadZone(RelativeStep(1.0)), TwoWay(), centre=True),
    "delta": Delta(presets.fast().up),
    "references": References(presets.fast().up, 16),
}
LENGTHS = (None, (3, 2))


def tensor():
    """Magnitudes 1..9 on every other place and 0.25 between them; some signs."""
    place = np.arange(24)
    magnitudes = np.where(place % 2 == 0, 1 + place // 2 * 5 % 9, 0.25)
    sample = np.where(place % 3 == 0, -magnitudes, magnitudes)
    return np.stack([sample, sample[::-1]]).reshape(SHAPE).astype(np.float32)


def known(name):
    """What either end remembers: nothing, or for references the tensor's rows in other order."""
    if name != "references":
        return EMPTY
    rows = tensor().reshape(-1, SHAPE[2])[::-1]
    return {"rows": np.ascontiguousarray(rows), "name": np.array(7)}


def encoded(name, lengths):
    rng, state = np.random.default_rng(0), known(name)
    return CASES[name].encode(tensor(), state, rng, lengths=lengths, samples=(3, 200)).packet


def golden(name, lengths):
    return GOLDEN / f"{name}{'' if lengths is None else '_ragged'}.hex"


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", CASES)
def test_the_packet_is_the_golden_one(name, lengths):
    assert encoded(name, lengths).hex() == golden(name, lengths).read_text().strip()


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", CASES)
def test_the_golden_packet_decodes_to_what_it_was_made_of(name, lengths):
    packet = bytes.fromhex(golden(name, lengths).read_text())
    decoded = CASES[name].decode(packet, SHAPE, known(name))
    expected = tensor()
    for sample, length in enumerate(lengths or (3, 3)):
        expected[sample, length:] = 0
    # all values lie on points of paper's and paper-rans' grid of 1 to 9 in 8 intervals
    exact = name in ("none", "paper", "paper_rans")
    if exact and name != "none":
        expected[np.abs(expected) < 1] = 0
    # two bits know +-1/4 and +-3/4 of a row's largest, 9 at most; dead zone's step is below 9 / 2
    np.testing.assert_allclose(decoded.tensor, expected, atol=0 if exact else 2.3)
    assert decoded.lengths == (lengths or (3, 3))


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name in CASES:
        for lengths in LENGTHS:
            golden(name, lengths).write_text(encoded(name, lengths).hex() + "\n")
