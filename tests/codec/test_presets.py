"""The presets: what each promises beside the others."""

import numpy as np
import pytest

from codec.ends import Ends, correlated, cosine
from cutlayer.codec import presets
from cutlayer.codec.presets import codec_pair
from cutlayer.codec.quantisers import TargetBits
from cutlayer.errors import ConfigError

SHAPE = (16, 17, 64)


def activation(seed=0):
    """Correlated, with heavy tails and channels of different strength and sign."""
    strong = 2.0 ** np.random.default_rng(5).normal(size=SHAPE[-1])
    tails = np.random.default_rng([6, seed]).laplace(size=SHAPE)
    return (correlated(SHAPE, seed, mean=1.0) * strong + tails).astype(np.float32)


@pytest.mark.parametrize("keep_ratio", [0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("levels", [1, 7, 31])
def test_paper_rans_decodes_to_the_papers_tensor_from_fewer_bytes(keep_ratio, levels):
    packets, tensors = [], []
    for pair in (presets.paper(keep_ratio, levels), presets.paper_rans(keep_ratio, levels)):
        packet, decoded = Ends(pair.up).send(activation())
        packets.append(len(packet))
        tensors.append(decoded.tensor)
    np.testing.assert_array_equal(*tensors)
    assert packets[1] < packets[0]


def test_the_papers_point_is_the_papers_twenty():
    packet, _ = Ends(presets.paper(0.2, 7).up).send(activation())
    # gaps of a random fifth 0.745 bit, three bits and a sign for it 0.8; headers and scales besides
    assert 8 * len(packet) / np.prod(SHAPE) == pytest.approx(1.55, abs=0.06)


def test_best_beats_the_paper_at_half_of_its_bytes():
    best = Ends(presets.best(TargetBits(0.5)).up)
    for seed in range(8):
        packet, decoded = best.send(activation(seed))
    paper, coarse = Ends(presets.paper().up).send(activation(7))
    assert len(packet) < 0.5 * len(paper)
    assert cosine(decoded.tensor, activation(7)) > cosine(coarse.tensor, activation(7))


def test_fast_takes_little_more_than_four_bits():
    packet, decoded = Ends(presets.fast().up).send(activation())
    # sixteen bits of scale for each of 64 columns, and the header
    assert 8 * len(packet) / np.prod(SHAPE) == pytest.approx(4.25, abs=0.05)
    # a step of 2 / 14 of the largest of 64 normal values, 2.5 deviations: 0.36^2 / 12 = 1.1 %
    assert cosine(decoded.tensor, activation()) > 0.99


@pytest.mark.parametrize("name", presets.PRESETS)
def test_the_planner_is_told_about_the_right_size(name):
    codec = codec_pair(name).up
    draw = np.random.default_rng(0).laplace(size=SHAPE).astype(np.float32)
    size = len(Ends(codec).send(draw)[0])
    # Laplace values without structure are what the forms assume; side information is a guess
    assert codec.expected_bytes(SHAPE) == pytest.approx(size, rel=0.12)


def test_an_unknown_preset_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean paper-rans"):
        codec_pair("paper-ran")


@pytest.mark.parametrize("name", list(presets.PRESETS))
def test_what_streams_remember_is_known_before(name):
    """Of a basis, whose columns depend on what is sent, the most."""
    width = 24
    rng = np.random.default_rng(0)
    scale = 2.0 ** -np.arange(width, dtype=np.float32)
    for codec in (codec_pair(name).up, codec_pair(name).down):
        sender, receiver = {}, {}
        most = [0, 0]
        for _ in range(6):
            tensor = rng.standard_normal((4, 30, width), dtype=np.float32) * scale
            encoded = codec.encode(tensor, sender, rng)
            decoded = codec.decode(encoded.packet, tensor.shape, receiver)
            sender, receiver = encoded.state, decoded.state
            for end, state in enumerate((sender, receiver)):
                held = sum(array.nbytes for array in state.values())
                most[end] = max(most[end], held)
        known = codec.remembered_bytes(width)
        # numbers beside the arrays are few
        assert all(held <= told + 64 for held, told in zip(most, known, strict=True))
        assert most[0] >= 0.5 * known[0]


def test_nothing_is_summed_up_for_a_basis_that_cannot_come():
    """Two packets of at most 512 rows, for 2,048 columns that want 4,096 before the last three."""
    rng = np.random.default_rng(0)
    tensor = rng.standard_normal((1, 20, 2048), dtype=np.float32)
    for packets, squares in ((2, 0), (10, 0), (11, 1)):
        codec = presets.best(packets=packets).down
        state = codec.encode(tensor, {}, np.random.default_rng(1)).state
        held = sum(array.nbytes for array in state.values())
        assert held // (8 * 2048**2) == squares
        assert held <= codec.remembered_bytes(2048)[0] + 64
    # a stream that goes on for longer sums up from then on, and codes the same
    short = presets.best(packets=2).down.encode(tensor, {}, np.random.default_rng(1))
    longer = presets.best(packets=400).down
    after = longer.encode(tensor, short.state, np.random.default_rng(2))
    assert "statistics.moment" in after.state
    again = presets.best(packets=2).down.encode(tensor, short.state, np.random.default_rng(2))
    assert after.packet == again.packet


def test_nothing_is_summed_up_after_the_last_basis():
    """64 columns, 272 rows a packet: a basis after 128 rows, the next one after 2,048 more."""
    last = {}
    for packets in (12, 11):
        codec, state = presets.best(packets=packets).down, {}
        for seed in range(4):
            found = codec.encode(activation(seed), state, np.random.default_rng(seed))
            state = found.state
        assert "basis" in state
        # it ships with the second packet; the tenth comes after eight more, and serves three of 12
        assert ("statistics.moment" in state) == (packets == 12)
        last[packets] = found.packet
    assert last[12] == last[11]
