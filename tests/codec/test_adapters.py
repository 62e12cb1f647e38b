"""Changes of adapter rows: round trips, sizes, pinned bytes, and hostile packets.

`python tests/codec/test_adapters.py` writes the pinned packets anew.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codec.hostile import damaged, forged
from cutlayer.codec.adapters import best, decode_row, encode_row, int8
from cutlayer.codec.codec import EMPTY, Segments
from cutlayer.codec.kernels.native import load_kernels
from cutlayer.codec.kernels.portable import Portable
from cutlayer.codec.packet import Packet, packet_from_bytes, packet_to_bytes
from cutlayer.codec.raw import RawCodec
from cutlayer.errors import ConfigError, PacketError

GOLDEN = Path(__file__).parent / "golden"
# a LoRA pair, one of a convolution, a head and its bias
SHAPES = ((4, 24), (24, 4), (2, 3, 4, 4), (8, 2, 1, 1), (3, 24), (3,))
SCALES = (1e-3, 1e-5, 1.0, 0.0, 1e-2, 1e3)
CASES = {"int8": int8(), "best": best(1.0), "coarse": best(0.2)}
each = pytest.mark.parametrize("codec", CASES.values(), ids=CASES.keys())


def change(seed=0, shapes=SHAPES, scales=SCALES):
    """Laplace values; each tensor at a scale of its own."""
    rng = np.random.default_rng(seed)
    parts = [s * rng.laplace(size=np.prod(n)) for n, s in zip(shapes, scales, strict=True)]
    return np.concatenate(parts).astype(np.float32)


def pinned():
    """A change of which all is known: no two tensors alike, one of zeros."""
    place = np.arange(sum(int(np.prod(shape)) for shape in SHAPES))
    values = np.where(place % 3 == 0, -1.0, 1.0) * (place * 7 % 11) ** 2
    values[place % 5 == 0] *= 8
    first = int(np.prod(SHAPES[0]))
    values[first : 2 * first] = 0
    return values.astype(np.float32)


def tensors(row):
    """Each tensor's values."""
    return np.split(row, np.cumsum([np.prod(shape) for shape in SHAPES])[:-1])


def begun(shapes=SHAPES, seed=0):
    """A row before training: every second tensor is zero."""
    rng = np.random.default_rng(seed)
    parts = [
        rng.normal(size=np.prod(shape)) if n % 2 == 0 else np.zeros(np.prod(shape))
        for n, shape in enumerate(shapes)
    ]
    return np.concatenate(parts).astype(np.float32)


def test_a_whole_row_comes_back_to_the_bit():
    rows = [begun(), change(), np.zeros_like(begun()), -np.zeros_like(begun())]
    for row in rows:
        packets = {encode_row(row, SHAPES, each) for each in (load_kernels(), Portable())}
        (packet,) = packets
        assert decode_row(packet, SHAPES, load_kernels()).tobytes() == row.tobytes()
    large = ((8, 384), (384, 8)) * 8
    row = begun(large)
    # of float32 trained or drawn a sixth is redundant; of zeros all is
    assert len(encode_row(row, large, load_kernels())) < 0.43 * row.nbytes
    with pytest.raises(PacketError, match="NaN or infinite"):
        encode_row(np.full_like(row, np.nan), large, load_kernels())


def test_hostile_rows_are_refused():
    row, kernels = begun(), load_kernels()
    packet = encode_row(row, SHAPES, kernels)
    other, rng = encode_row(change(), SHAPES, kernels), np.random.default_rng(0)
    for _ in range(200):
        for bad in (damaged(packet, other, rng), forged(packet, other, rng)):
            try:
                found = decode_row(bad, SHAPES, kernels)
            except PacketError:
                continue
            assert found.shape == row.shape and np.isfinite(found).all()
    with pytest.raises(PacketError):
        decode_row(packet, SHAPES[:-1], kernels)
    frame = packet_from_bytes(packet, "row", row.shape)
    told, code = frame.sections["zeros"], frame.sections["code"]
    full = Segments.full((1, 1, row.size))
    for zeros, own in ((told + b"x", code), (b"\0", code), (told, code + b"x"), (told, code[:-1])):
        wrong = Packet("row", row.shape, full, {"zeros": zeros, "code": own})
        with pytest.raises(PacketError):
            decode_row(packet_to_bytes(wrong), SHAPES, kernels)


@each
def test_each_tensor_comes_back_at_its_own_scale(codec):
    sent = change()
    got = codec.decode(codec.encode(sent, SHAPES), SHAPES)
    for values, came, scale in zip(tensors(sent), tensors(got), SCALES, strict=True):
        # a dead zone drops what is below a step or so; int8 is precise to 1/254 of a vector's
        # largest, which has 8 bits itself
        loss = 4.0 * scale if codec.name == "best" else np.abs(values).max() / 125
        assert np.abs(values - came).max() <= loss


@each
def test_what_is_lost_comes_later(codec):
    """The same change again and again, with what was lost: the mean of what came is the change."""
    sent, lost, came = change(), np.zeros_like(change()), np.zeros_like(change())
    rounds = 40
    for _ in range(rounds):
        got = codec.decode(codec.encode(sent + lost, SHAPES), SHAPES)
        lost, came = sent + lost - got, came + got
    np.testing.assert_allclose(came + lost, rounds * sent, rtol=1e-3, atol=1e-3)
    for values, own in zip(tensors(rounds * sent), tensors(lost), strict=True):
        assert np.linalg.norm(own) <= 0.5 * np.linalg.norm(values)


@pytest.mark.parametrize("bits", (0.1, 0.3, 1.0, 3.0))
def test_a_packet_is_about_as_long_as_expected(bits):
    """Of Laplace values; tables and settings of a real part's row are a hundredth of a bit."""
    shapes = ((16, 192), (192, 16)) * 12
    codec, sent = best(bits), change(1, shapes, (1e-3,) * 24)
    expected = 4 * sent.size * codec.expected_ratio
    assert expected == pytest.approx(bits * sent.size / 8, rel=0.01)
    assert len(codec.encode(sent, shapes)) == pytest.approx(expected, rel=0.12, abs=700)


@each
def test_both_kernels_give_the_same_bytes(codec):
    sent = change(2)
    native, plain = (replace(codec, kernels=own) for own in (load_kernels(), Portable()))
    packet = native.encode(sent, SHAPES)
    assert plain.encode(sent, SHAPES) == packet
    np.testing.assert_array_equal(native.decode(packet, SHAPES), plain.decode(packet, SHAPES))


@pytest.mark.parametrize("name", CASES)
def test_the_packet_is_the_golden_one(name):
    packet = CASES[name].encode(pinned(), SHAPES)
    assert packet.hex() == (GOLDEN / f"adapter_{name}.hex").read_text().strip()


def test_a_row_of_nothing_and_one_that_did_not_change():
    for codec in CASES.values():
        none = np.zeros(0, dtype=np.float32)
        assert codec.decode(codec.encode(none, ()), ()).size == 0
        still = np.zeros_like(change())
        packet = codec.encode(still, SHAPES)
        np.testing.assert_array_equal(codec.decode(packet, SHAPES), still)
        assert len(packet) < 300


@each
@pytest.mark.parametrize("wrong", (np.nan, np.inf, -np.inf, 1e30))
def test_no_change_that_training_does_not_make_is_sent(codec, wrong):
    sent = change()
    sent[7] = wrong
    with pytest.raises(PacketError, match=r"NaN or infinite|magnitude"):
        codec.encode(sent, SHAPES)


def test_other_rows_and_other_codecs_are_refused():
    packet = best(1.0).encode(change(), SHAPES)
    with pytest.raises(PacketError, match="shape"):
        best(1.0).decode(packet, SHAPES[:-1])
    with pytest.raises(PacketError, match="same adapter_codec on both ends"):
        int8().decode(packet, SHAPES)
    whole = RawCodec().encode(change(), EMPTY, np.random.default_rng(0)).packet
    with pytest.raises(PacketError, match="kind 'none', expected 'adapter'"):
        best(1.0).decode(whole, SHAPES)
    with pytest.raises(PacketError, match="expected 379 values"):
        best(1.0).encode(change()[1:], SHAPES)
    with pytest.raises(ConfigError, match=r"from 0\.05 to 8"):
        best(0.01)


@each
def test_hostile_packets_are_refused_or_give_a_finite_change(codec):
    rng = np.random.default_rng(5)
    packet, other = codec.encode(change(), SHAPES), codec.encode(change(9), SHAPES)
    refused = 0
    for _ in range(150):
        accident = damaged(packet, other, rng)
        if accident not in (packet, other):
            with pytest.raises(PacketError):
                codec.decode(accident, SHAPES)
        try:
            got = codec.decode(forged(packet, other, rng), SHAPES)
        except PacketError:
            refused += 1
        else:
            assert got.shape == change().shape and np.isfinite(got).all()
    assert refused > 50


if __name__ == "__main__":
    for name, codec in CASES.items():
        packet = codec.encode(pinned(), SHAPES)
        (GOLDEN / f"adapter_{name}.hex").write_text(packet.hex() + "\n")
