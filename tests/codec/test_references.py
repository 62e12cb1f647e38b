"""References to rows that were sent before."""

import numpy as np
import pytest

from codec.ends import Ends, correlated
from cutlayer.codec import presets
from cutlayer.codec.codec import EMPTY, Segments
from cutlayer.codec.dead_zone import DeadZone
from cutlayer.codec.packet import Packet, packet_to_bytes, read_packet
from cutlayer.codec.quantisers import RelativeStep, TargetBits
from cutlayer.codec.references import References
from cutlayer.codec.staged import StagedCodec
from cutlayer.codec.two_way import TwoWay
from cutlayer.errors import ConfigError, PacketError

SHAPE = (4, 16, 32)
WHOLE = Segments.full(SHAPE)
INNER = StagedCodec(DeadZone(TargetBits(1.0)), TwoWay(), centre=True)


def words(seed, own=0.3, mean=0.0):
    """Rows that are one of 20 words, each with something of its own."""
    vocabulary = np.random.default_rng(1).normal(size=(20, SHAPE[2]))
    rng = np.random.default_rng(seed)
    rows = vocabulary[rng.integers(20, size=SHAPE[:2])] + own * rng.normal(size=SHAPE)
    return (rows + mean).astype(np.float32)


def errors(codec, packets, **named):
    """Of the last packets, relative to the tensors', and their length."""
    ends = Ends(codec)
    lost, sizes = [], []
    for seed in range(packets):
        tensor = words(seed, **named)
        packet, decoded = ends.send(tensor)
        about = tensor - tensor.mean((0, 1))
        lost.append(np.square(tensor - decoded.tensor).sum() / np.square(about).sum())
        sizes.append(len(packet))
    return np.mean(lost[packets // 2 :]), np.mean(sizes[packets // 2 :])


@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_words_that_come_again_decode_nearer_in_hardly_more_bytes(mean):
    plain, size = errors(INNER, 10, mean=mean)
    nearer, more = errors(References(INNER, 1024), 10, mean=mean)
    assert nearer < 0.6 * plain
    # gains and places: 3 + 10 bits for each of 64 rows, and what the frame takes
    assert more < size + 64 * 13 / 8 + 60


def test_a_tensor_that_comes_again_takes_next_to_nothing():
    codec = References(StagedCodec(DeadZone(RelativeStep(0.5)), TwoWay()), 256)
    ends = Ends(codec)
    tensor = words(0, own=1.0)
    lost = [float(np.square(tensor - ends.send(tensor)[1].tensor).sum()) for _ in range(4)]
    # each time what the packet before has lost is sent
    assert lost[3] < 0.1 * lost[0]


def test_rows_that_resemble_none_refer_to_none():
    ends = Ends(References(INNER, 256))
    rng = np.random.default_rng(0)
    for _ in range(2):
        ends.send(rng.normal(size=(2, 8, 512)).astype(np.float32))
    packet, _ = ends.send(rng.normal(size=(2, 8, 512)).astype(np.float32))
    assert "references" not in read_packet(packet).sections


def test_both_ends_remember_the_last_rows_alike():
    ends = Ends(References(INNER, 100))
    lengths = [(16, 3, 0, 9), (16, 16, 16, 16), (1, 2, 3, 4)]
    kept = []
    for seed, each in enumerate(lengths):
        _, decoded = ends.send(words(seed), each)
        kept += [decoded.tensor[sample, :length] for sample, length in enumerate(each)]
    np.testing.assert_array_equal(ends.receiver["rows"], np.concatenate(kept)[-100:])
    for name in ("rows", "name"):
        np.testing.assert_array_equal(ends.sender[name], ends.receiver[name])
    held = [sum(array.nbytes for array in end.values()) for end in (ends.sender, ends.receiver)]
    for own, known in zip(held, ends.codec.remembered_bytes(32), strict=True):
        assert 0.5 * known <= own <= known + 64


def test_a_receiver_that_missed_a_packet_says_so():
    ends = Ends(References(INNER, 100))
    ends.send(words(0))
    packet, _ = ends.send(words(1))
    with pytest.raises(PacketError, match="a packet was lost: start the stream again"):
        ends.codec.decode(packet, SHAPE, EMPTY)


def test_references_that_cannot_be_are_refused():
    ends = Ends(References(INNER, 100))
    for seed in range(2):
        ends.send(words(seed))
    state = ends.receiver
    packet, _ = ends.send(words(2))
    frame = read_packet(packet)
    section = frame.sections["references"]

    def decoded(references, state=state, known=frame.sections["known"]):
        sections = {**frame.sections, "known": known, "references": references}
        forged = packet_to_bytes(Packet("references", SHAPE, WHOLE, sections))
        return ends.codec.decode(forged, SHAPE, state)

    assert decoded(section).tensor.shape == SHAPE
    # 64 gains take 24 bytes, then come places of 7 bits below 100
    for broken, message in (
        (section[:20], "gains"),
        (section[:-1], "references"),
        (section + b"\0", "references"),
        (b"\xff" * 80, "a reference to row 127 of 100"),
    ):
        with pytest.raises(PacketError, match=message):
            decoded(broken)
    first, _ = Ends(ends.codec).send(words(2))
    sections = {**read_packet(first).sections, "references": section}
    with pytest.raises(PacketError, match="no row is remembered"):
        ends.codec.decode(
            packet_to_bytes(Packet("references", SHAPE, WHOLE, sections)), SHAPE, EMPTY
        )


def test_rows_of_another_width_are_refused():
    ends = Ends(References(presets.fast().up, 100))
    ends.send(correlated((2, 3, 16)))
    with pytest.raises(PacketError, match="remembered rows of 16 columns for 8"):
        ends.send(correlated((2, 3, 8)))


@pytest.mark.parametrize("rows", [0, 65537])
def test_so_many_rows_cannot_be_remembered(rows):
    with pytest.raises(ConfigError, match=f"references to {rows} rows"):
        References(INNER, rows)
