"""The paper's codec as a whole: which values, how many bytes, which settings."""

import numpy as np
import pytest

from cutlayer.codec.golomb import encode_positions
from cutlayer.codec.packet import Packet, overhead_bytes, pack, unpack
from cutlayer.codec.paper import SECTIONS, SETTINGS, PaperCodec
from cutlayer.errors import ConfigError, PacketError


def laplace(shape, seed=0):
    return np.random.default_rng(seed).laplace(size=shape).astype(np.float32)


def encoded(codec, tensor, seed=0, lengths=None):
    return codec.encode(tensor, lengths, np.random.default_rng(seed))


@pytest.mark.parametrize("keep_ratio", [0.0, -0.1, 1.0001, float("nan"), float("inf")])
def test_a_keep_ratio_out_of_range_is_refused(keep_ratio):
    with pytest.raises(ConfigError, match=r"keep_ratio .*\(0, 1\]"):
        PaperCodec(keep_ratio, 7)


@pytest.mark.parametrize("levels", [0, -1, 256])
def test_levels_out_of_range_are_refused(levels):
    with pytest.raises(ConfigError, match=f"levels {levels}"):
        PaperCodec(0.2, levels)


@pytest.mark.parametrize(("keep_ratio", "kept"), [(0.2, 10), (0.21, 11), (0.001, 1), (1.0, 50)])
def test_exactly_k_values_of_each_sample_are_kept(keep_ratio, kept):
    tensor = laplace((3, 5, 10))
    back = PaperCodec(keep_ratio, 31).decode(
        encoded(PaperCodec(keep_ratio, 31), tensor), tensor.shape
    )
    for sent, received in zip(tensor, back.tensor, strict=True):
        assert np.count_nonzero(received) == kept
        largest = np.argsort(-np.abs(sent).reshape(-1), kind="stable")[:kept]
        assert set(np.flatnonzero(received)) == set(largest.tolist())
        np.testing.assert_array_equal(
            np.sign(received[received != 0]), np.sign(sent[received != 0])
        )


def test_values_on_the_points_come_back_exactly():
    # magnitudes 0..8 with 8 intervals: every one is a point
    tensor = np.arange(-8, 9, dtype=np.float32).reshape(1, 1, 17)
    codec = PaperCodec(1.0, 8)
    np.testing.assert_array_equal(codec.decode(encoded(codec, tensor), (1, 1, 17)).tensor, tensor)


def test_zeros_come_back_without_a_sign():
    tensor = np.array([[[-0.0, 0.0, 1.0]]], dtype=np.float32)
    codec = PaperCodec(1.0, 7)
    back = codec.decode(encoded(codec, tensor), tensor.shape).tensor
    assert not np.signbit(back).any()


def test_kept_values_have_no_bias():
    tensor = laplace((2, 4, 8))
    codec = PaperCodec(0.5, 3)
    runs = 400
    decoded = [
        codec.decode(encoded(codec, tensor, seed), tensor.shape).tensor for seed in range(runs)
    ]
    mean = np.mean(decoded, axis=0, dtype=np.float64)
    for sent, received in zip(tensor, mean, strict=True):
        magnitudes = np.sort(np.abs(sent).reshape(-1))[-16:]
        step = (magnitudes[-1] - magnitudes[0]) / 3
        kept = np.abs(sent) >= magnitudes[0]
        # standard deviation of the mean at most step / 2 / sqrt(runs); five of them, a tenth of
        # what a rounding that is not stochastic would miss by
        assert np.abs(received - sent)[kept].max() < 5 * step / 2 / np.sqrt(runs)


def sections(packet, shape):
    return unpack(packet, "paper", shape, SECTIONS).sections


def test_keeping_everything_spends_nothing_on_gaps():
    tensor = laplace((4, 9, 32))
    _, _, quotients, remainders, *_ = sections(encoded(PaperCodec(1.0, 7), tensor), tensor.shape)
    assert (quotients, remainders) == (b"", b"")


def entropy_bits(values):
    share = np.bincount(values) / values.size
    share = share[share > 0]
    return -values.size * (share * np.log2(share)).sum()


def side_bytes(batch):
    return overhead_bytes(SECTIONS) + SETTINGS.size + 8 * batch


def levels_and_mask(codec, packet, shape):
    """The level of each kept value and the mask, read off the decoded tensor."""
    back = codec.decode(packet, shape).tensor.reshape(shape[0], -1)
    levels = []
    for row in np.abs(back):
        kept = row[row > 0].astype(np.float64)
        place = (kept - kept.min()) / np.ptp(kept) * codec.levels
        levels.append(np.rint(place).astype(int))
    return np.concatenate(levels), (back != 0).reshape(-1).astype(int)


def test_the_size_is_within_4_percent_of_the_entropy_of_its_symbols():
    shape = (16, 17, 384)
    codec = PaperCodec(0.2, 7)
    packet = encoded(codec, laplace(shape))
    levels, mask = levels_and_mask(codec, packet, shape)
    bound_bits = entropy_bits(mask) + entropy_bits(levels) + levels.size + 8 * side_bytes(16)
    # over it: Rice against the entropy of geometric gaps at 0.2 (3.69 against 3.61 bits, a third of
    # the packet: 1.3 %), the lanes' states (24 bits for 512 to 1023 symbols of 6.6 bits: at most
    # 0.8 %), the table and rounding to bytes (at most 16 + 4 of 17,000 bytes)
    assert bound_bits < 8 * len(packet) < 1.04 * bound_bits


def test_the_size_is_below_golomb_with_packed_levels():
    shape = (16, 17, 384)
    packet = encoded(PaperCodec(0.2, 7), laplace(shape))
    _, _, quotients, remainders, _, _, signs = sections(packet, shape)
    packed_levels = 1306 * 16 * 3 // 8  # 0.2 · 6528 = 1305.6 values of each sample, 3 bits each
    packed = side_bytes(16) + len(quotients) + len(remainders) + len(signs) + packed_levels
    assert len(packet) < 0.9 * packed


@pytest.mark.parametrize("shape", [(16, 17, 384), (4, 197, 192), (1, 17, 384), (8, 64, 64)])
@pytest.mark.parametrize("keep_ratio", [0.02, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("levels", [1, 7, 31, 255])
def test_the_expected_size_is_within_10_percent_on_laplace_values(shape, keep_ratio, levels):
    codec = PaperCodec(keep_ratio, levels)
    spent_bytes = len(encoded(codec, laplace(shape)))
    assert codec.expected_bytes(shape) == pytest.approx(spent_bytes, rel=0.1)


def test_a_receiver_needs_none_of_the_senders_settings():
    tensor = laplace((2, 3, 8))
    packet = encoded(PaperCodec(0.3, 15), tensor)
    own = PaperCodec(0.3, 15).decode(packet, tensor.shape).tensor
    other = PaperCodec(1.0, 1).decode(packet, tensor.shape).tensor
    np.testing.assert_array_equal(own, other)


def forged(packet, shape, index, data):
    frame = unpack(packet, "paper", shape, SECTIONS)
    parts = list(frame.sections)
    parts[index] = data
    return pack(Packet("paper", frame.segments, tuple(parts)))


@pytest.mark.parametrize(
    ("index", "data", "message"),
    [
        (0, b"", "settings: 0 bytes, expected 10"),
        (0, SETTINGS.pack(2.0, 7, 1), "settings: keep_ratio 2.0"),
        (0, SETTINGS.pack(0.25, 0, 1), "settings: levels 0"),
        (0, SETTINGS.pack(1.0, 7, 1), "gaps"),
        (1, b"", "scales: 0 bytes, expected 16"),
        (2, b"", "gaps: 0 of them, expected 12"),
        (3, b"", "low bits of gaps: 0 bytes"),
        (4, b"", "frequency table"),
        (5, b"", "levels: 0 bytes of code"),
        (6, b"", "signs: 0 bytes, expected 2"),
    ],
)
def test_a_wrong_section_is_refused_by_name(index, data, message):
    shape = (2, 3, 8)
    packet = encoded(PaperCodec(0.25, 7), laplace(shape, seed=3))
    with pytest.raises(PacketError, match=message):
        PaperCodec(0.25, 7).decode(forged(packet, shape, index, data), shape)


def test_positions_moved_from_one_sample_to_another_are_refused():
    # 4 of 16 values are kept, two of each sample; forge four of the first
    tensor = laplace((2, 1, 8))
    packet = encoded(PaperCodec(0.25, 7), tensor)
    stolen = encode_positions(np.arange(4), 16)
    moved = forged(packet, (2, 1, 8), 0, SETTINGS.pack(0.25, 7, stolen.parameter))
    moved = forged(moved, (2, 1, 8), 2, stolen.quotients)
    moved = forged(moved, (2, 1, 8), 3, stolen.remainders)
    with pytest.raises(PacketError, match="does not keep as many values"):
        PaperCodec(0.25, 7).decode(moved, (2, 1, 8))


def test_levels_of_an_empty_packet_are_refused():
    packet = encoded(PaperCodec(0.5, 7), np.ones((1, 2, 2), dtype=np.float32), lengths=(0,))
    extended = forged(packet, (1, 2, 2), 5, b"\x00\x00")
    with pytest.raises(PacketError, match="levels: 2 bytes for none"):
        PaperCodec(0.5, 7).decode(extended, (1, 2, 2))
