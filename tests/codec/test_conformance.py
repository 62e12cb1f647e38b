"""What every codec must do. A codec joins by joining `CASES`, with a bound on its error."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.codec.codec import Codec
from cutlayer.codec.packet import CODEC_IDS
from cutlayer.codec.paper import PaperCodec
from cutlayer.codec.raw import RawCodec
from cutlayer.codec.sparsify import kept_counts
from cutlayer.errors import PacketError


@dataclass(frozen=True)
class Case:
    """A codec and the largest error it may make on one sample's magnitudes."""

    codec: Codec
    error_bound: Callable[[np.ndarray], float]


def exact(magnitudes):
    return 0.0


def paper(keep_ratio, levels):
    def error_bound(magnitudes):
        count = int(kept_counts(np.array([magnitudes.size]), keep_ratio)[0])
        ordered = np.sort(magnitudes.astype(np.float64))
        low, high = ordered[-count], ordered[-1]
        dropped = ordered[-count - 1] if count < magnitudes.size else 0.0
        # a kept value moves by less than one step; float32's share of that: see test_quantise
        return max(dropped, (high - low) / levels + 4 * 2.0**-24 * high + 2.0**-150)

    return Case(PaperCodec(keep_ratio, levels), error_bound)


CASES = [
    Case(RawCodec(), exact),
    paper(0.2, 7),
    paper(0.5, 31),
    paper(1.0, 31),
    paper(0.8, 1),
    paper(0.01, 255),
]
each_codec = pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case.codec))
TINY = float(np.finfo(np.float32).smallest_subnormal)
HUGE = float(np.finfo(np.float32).max)


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def with_one(shape, value):
    tensor = normal(shape)
    tensor[-1, -1, -1] = value
    return tensor


TENSORS = {
    "usual": normal((4, 17, 32)),
    "batch of one": normal((1, 9, 24)),
    "one token": normal((5, 1, 24)),
    "one value": normal((1, 1, 1)),
    "one column": normal((2, 7, 1)),
    "zeros": np.zeros((2, 5, 8), dtype=np.float32),
    "negative zeros": np.full((2, 5, 8), -0.0, dtype=np.float32),
    "a constant": np.full((2, 5, 8), -1.75, dtype=np.float32),
    "two values": np.where(normal((2, 5, 8)) > 0, 3, -3).astype(np.float32),
    "mostly zeros": np.where(normal((2, 5, 8)) > 1.5, normal((2, 5, 8)), 0).astype(np.float32),
    "one sample of zeros": normal((3, 5, 8)) * np.array([1, 0, 1], dtype=np.float32)[:, None, None],
    "subnormal": (normal((2, 5, 8)) * TINY * 100).astype(np.float32),
    "least subnormals": np.where(normal((2, 5, 8)) > 0, TINY, 0).astype(np.float32),
    "one huge value": with_one((2, 5, 8), HUGE),
    "huge values": np.where(normal((2, 5, 8)) > 0, HUGE, -HUGE).astype(np.float32),
    "tiny and huge": np.where(normal((2, 5, 8)) > 0, HUGE, TINY).astype(np.float32),
    "many lanes": normal((2, 65, 64)),
    "not contiguous": normal((8, 5, 2)).transpose(2, 1, 0),
}


def check_round_trip(case, tensor, lengths=None):
    """Encode and decode; the lengths, the padding and the error are as promised."""
    packet = case.codec.encode(tensor, lengths, np.random.default_rng(7))
    decoded = case.codec.decode(packet, tensor.shape)
    counted = (tensor.shape[1],) * tensor.shape[0] if lengths is None else tuple(lengths)
    assert decoded.lengths == counted
    assert decoded.tensor.dtype == np.float32
    assert decoded.tensor.shape == tensor.shape
    assert decoded.tensor.flags.writeable
    for sent, received, length in zip(tensor, decoded.tensor, counted, strict=True):
        assert not received[length:].any()
        if length == 0:
            continue
        error = np.abs(received[:length].astype(np.float64) - sent[:length])
        assert error.max() <= case.error_bound(np.abs(sent[:length]).reshape(-1))
        assert not received[:length][sent[:length] == 0].any()


def test_every_codec_has_a_case():
    assert {type(case.codec) for case in CASES} == set(Codec.__subclasses__())
    assert {case.codec.name for case in CASES} == set(CODEC_IDS)


@each_codec
@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS.keys())
def test_a_tensor_comes_back_within_the_bound(case, tensor):
    check_round_trip(case, tensor)


@st.composite
def shapes_and_lengths(draw):
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 20)))
    lengths = st.lists(st.integers(0, shape[1]), min_size=shape[0], max_size=shape[0])
    return shape, draw(st.none() | lengths)


@each_codec
@settings(max_examples=60, deadline=None)
@given(shapes_and_lengths(), st.integers(0, 2**32), st.floats(1e-40, 1e38))
def test_any_shape_and_lengths_come_back_within_the_bound(case, shaped, seed, scale):
    shape, lengths = shaped
    # within +-1 before scaling, so that no value overflows
    tensor = np.random.default_rng(seed).uniform(-1, 1, size=shape) * scale
    check_round_trip(case, tensor.astype(np.float32), lengths)


@each_codec
def test_the_same_tensor_and_seed_give_the_same_bytes(case):
    tensor = normal((4, 17, 32))
    first, second = (
        case.codec.encode(tensor, (3, 17, 0, 9), np.random.default_rng(5)) for _ in range(2)
    )
    assert first == second


@each_codec
def test_encoding_leaves_the_tensor_alone(case):
    tensor = normal((2, 5, 8))
    tensor.flags.writeable = False
    before = tensor.copy()
    case.codec.encode(tensor, None, np.random.default_rng(0))
    np.testing.assert_array_equal(tensor, before)


@each_codec
def test_padding_changes_nothing(case):
    tensor, other = normal((3, 6, 8)), normal((3, 6, 8))
    other[0, 2:] = np.nan
    other[2, 5:] = HUGE
    packets = {
        case.codec.encode(values, (2, 6, 5), np.random.default_rng(5)) for values in (tensor, other)
    }
    assert len(packets) == 1


@each_codec
def test_padding_saves_bytes(case):
    tensor = normal((4, 32, 32))
    full, half = (
        len(case.codec.encode(tensor, lengths, np.random.default_rng(5)))
        for lengths in (None, (16, 16, 16, 16))
    )
    assert half < full


@each_codec
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(case, value):
    tensor = with_one((2, 3, 4), value)
    with pytest.raises(PacketError, match=r"1 of 24 values .* sample 1, token 2, column 3"):
        case.codec.encode(tensor, None, np.random.default_rng(0))


@each_codec
@pytest.mark.parametrize("lengths", [(1,), (1, 4), (-1, 3), ()])
def test_lengths_that_do_not_fit_are_refused(case, lengths):
    with pytest.raises(PacketError, match="length"):
        case.codec.encode(normal((2, 3, 4)), lengths, np.random.default_rng(0))


@each_codec
@pytest.mark.parametrize("shape", [(3, 2, 4), (2, 3, 5), (1, 3, 8), (0, 0, 0), (-2, 3, 4)])
def test_a_packet_of_another_shape_is_refused(case, shape):
    packet = case.codec.encode(normal((2, 3, 4)), None, np.random.default_rng(0))
    with pytest.raises(PacketError, match="shape"):
        case.codec.decode(packet, shape)


def test_a_packet_of_another_codec_is_refused():
    packet = RawCodec().encode(normal((4, 9, 8)), None, np.random.default_rng(0))
    with pytest.raises(PacketError, match="codec 'none', expected 'paper'"):
        PaperCodec(0.2, 7).decode(packet, (4, 9, 8))


@each_codec
def test_expected_bytes_grow_with_the_shape(case):
    sizes = [case.codec.expected_bytes((batch, 17, 64)) for batch in (1, 2, 4, 8)]
    assert sizes == sorted(set(sizes))
