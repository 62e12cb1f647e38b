"""Codecs that remember samples."""

import numpy as np
import pytest

from codec.ends import Ends, correlated, cosine
from cutlayer.codec import presets
from cutlayer.codec.codec import EMPTY
from cutlayer.codec.dead_zone import DeadZone
from cutlayer.codec.memories import Delta, ErrorFeedback
from cutlayer.codec.quantisers import Integer, RelativeStep
from cutlayer.codec.staged import StagedCodec
from cutlayer.codec.two_way import TwoWay
from cutlayer.errors import PacketError

SHAPE = (4, 6, 32)


def test_error_feedback_makes_up_for_what_was_dropped():
    plain, fed = Ends(presets.paper(0.1).up), Ends(ErrorFeedback(presets.paper(0.1).up))
    tensor = correlated(SHAPE)
    sums = [sum(ends.send(tensor)[1].tensor for _ in range(30)) for ends in (plain, fed)]
    # what is owed after 30 visits is bounded, what is dropped each time adds up
    assert 1 - cosine(sums[1], tensor) < 0.1 * (1 - cosine(sums[0], tensor))


def test_error_feedback_belongs_to_the_sample_wherever_it_stands():
    ends = Ends(ErrorFeedback(presets.paper(0.1).up))
    ends.send(correlated(SHAPE), samples=(4, 7, 1, 0))
    lost = ends.sender["lost.7"].copy()
    assert lost.shape == (6, 32)
    ends.send(correlated(SHAPE, 1), samples=(5, 6, 2, 3))
    np.testing.assert_array_equal(ends.sender["lost.7"], lost)
    assert ends.receiver == {}


def test_a_delta_of_what_hardly_moved_is_closer_for_the_same_codec():
    inner = StagedCodec(Integer(4), TwoWay())
    plain, delta = Ends(inner), Ends(Delta(inner))
    drift = [correlated(SHAPE) + 0.01 * n for n in range(6)]
    for tensor in drift:
        tensor = tensor.astype(np.float32)
        answers = [ends.send(tensor)[1].tensor for ends in (plain, delta)]
    errors = [np.linalg.norm(answer - tensor) for answer in answers]
    assert errors[1] < 0.1 * errors[0]


def test_both_ends_of_a_delta_remember_the_same():
    ends = Ends(Delta(StagedCodec(DeadZone(RelativeStep(0.5)), TwoWay(), centre=True)))
    ends.send(correlated(SHAPE), (6, 2, 0, 5), samples=(9, 300, 2, 70000))
    ends.send(correlated(SHAPE, 1), (2, 6, 5, 1), samples=(300, 9, 70000, 4))
    for number in (9, 300, 2, 70000, 4):
        name = f"sample.{number}"
        np.testing.assert_array_equal(ends.sender[name], ends.receiver[name])


def test_a_receiver_that_lost_its_samples_says_so():
    ends = Ends(Delta(presets.fast().up))
    ends.send(correlated(SHAPE))
    packet, _ = ends.send(correlated(SHAPE))
    with pytest.raises(PacketError, match="start the stream again"):
        ends.codec.decode(packet, SHAPE, EMPTY)


def test_a_sample_that_changed_its_length_is_refused():
    ends = Ends(Delta(presets.fast().up))
    ends.send(correlated(SHAPE), (6, 6, 6, 6))
    with pytest.raises(PacketError, match="give different samples different numbers"):
        ends.send(correlated(SHAPE), (6, 5, 6, 6))


@pytest.mark.parametrize("wrap", [Delta, ErrorFeedback])
@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ((0, 1, 2), "3 sample numbers, expected 4"),
        ((0, 1, 2, 2), "expected 4 different"),
        ((0, 1, 2, -1), "sample number -1"),
        ((0, 1, 2, 2**32), f"sample number {2**32}"),
    ],
)
def test_sample_numbers_that_cannot_be_are_refused(wrap, samples, message):
    with pytest.raises(PacketError, match=message):
        Ends(wrap(presets.fast().up)).send(correlated(SHAPE), samples=samples)


@pytest.mark.parametrize("wrap", [Delta, ErrorFeedback])
def test_without_sample_numbers_it_says_what_it_needs(wrap):
    codec = wrap(presets.fast().up)
    with pytest.raises(PacketError, match="and the samples' numbers"):
        codec.encode(correlated(SHAPE), EMPTY, np.random.default_rng(0))
