"""Steps that follow a goal."""

import numpy as np
import pytest

from codec.ends import Ends, correlated, cosine
from cutlayer.codec.dead_zone import DeadZone
from cutlayer.codec.packet import read_packet
from cutlayer.codec.pipeline import LearnedBasis
from cutlayer.codec.quantisers import CLOSE_ENOUGH, RelativeStep, TargetBits, TargetCosine
from cutlayer.codec.staged import OWN_SECTIONS, StagedCodec
from cutlayer.codec.two_way import TwoWay
from cutlayer.errors import ConfigError

SHAPE = (16, 16, 64)


def bits_of(packet):
    sections = read_packet(packet).sections
    size = sum(len(data) for name, data in sections.items() if name not in OWN_SECTIONS)
    return 8 * (size + len(sections["quantiser"])) / np.prod(SHAPE)


def codec(rule):
    return StagedCodec(DeadZone(rule), TwoWay(), transform=LearnedBasis(warm_up=4))


@pytest.mark.parametrize("bits", [0.1, 0.5, 2.0, 5.0])
def test_the_first_packet_takes_the_bits_asked_for(bits):
    packet, _ = Ends(codec(TargetBits(bits))).send(correlated(SHAPE, noise=0.5))
    assert bits_of(packet) == pytest.approx(bits, rel=1.5 * CLOSE_ENOUGH, abs=0.01)


def test_later_packets_follow_though_the_tensors_grow():
    ends = Ends(codec(TargetBits(0.5)))
    taken = [
        bits_of(ends.send(correlated(SHAPE, n, noise=0.5) * np.float32(1.5**n))[0])
        for n in range(12)
    ]
    # with the basis (from the first packet on, 256 rows) the bits hardly move between batches
    assert np.mean(taken) == pytest.approx(0.5, rel=0.05)
    assert max(taken) < 0.6


@pytest.mark.parametrize("goal", [0.5, 0.9, 0.99])
def test_a_packet_has_the_cosine_asked_for(goal):
    ends = Ends(codec(TargetCosine(goal)))
    for n in range(3):
        tensor = correlated(SHAPE, n, noise=0.5)
        _, decoded = ends.send(tensor)
        # CLOSE_ENOUGH bounds half the log of 1 - cosine; batches differ by as much again
        assert 1 - cosine(decoded.tensor, tensor) == pytest.approx(1 - goal, rel=0.2)


def test_one_massive_channel_does_not_drown_the_others():
    tensor = correlated(SHAPE, noise=1.0)
    tensor[..., 5] *= 1000
    codec = StagedCodec(DeadZone(RelativeStep(0.5)), TwoWay())
    _, decoded = Ends(codec).send(tensor)
    others = np.delete(tensor, 5, axis=2)
    assert cosine(np.delete(decoded.tensor, 5, axis=2), others) > 0.95


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RelativeStep(0.0), "step 0.0"),
        (lambda: RelativeStep(float("inf")), "step inf"),
        (lambda: TargetBits(0.0), "target_bits 0.0"),
        (lambda: TargetBits(33.0), "target_bits 33.0"),
        (lambda: TargetCosine(1.0), "target_cosine 1.0"),
        (lambda: TargetCosine(float("nan")), "target_cosine nan"),
        (lambda: DeadZone(RelativeStep(1.0), 0.6), "rounding 0.6"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
