"""What every codec must do. A codec joins by joining `CODECS`."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.ends import Ends
from cutlayer.codec import presets
from cutlayer.codec.codec import EMPTY, Codec
from cutlayer.codec.dead_zone import DeadZone
from cutlayer.codec.entropy import FixedWidth, Golomb
from cutlayer.codec.memories import Delta, ErrorFeedback
from cutlayer.codec.pipeline import Hadamard, LearnedBasis, TopK
from cutlayer.codec.quantisers import (
    Float8,
    Integer,
    RelativeStep,
    StochasticLevels,
    TargetBits,
    TargetCosine,
)
from cutlayer.codec.raw import RawCodec
from cutlayer.codec.references import References
from cutlayer.codec.staged import LARGEST_MAGNITUDE, StagedCodec
from cutlayer.codec.two_way import TwoWay
from cutlayer.errors import PacketError
from examples import at_most

PRESETS = {
    "none": presets.none(),
    "paper": presets.paper(),
    "paper-rans": presets.paper_rans(),
    "best": presets.best(),
    "fast": presets.fast(),
}
CODECS: dict[str, Codec] = {
    **{f"{name} up": pair.up for name, pair in PRESETS.items()},
    "best down": PRESETS["best"].down,
    "levels 255": StagedCodec(StochasticLevels(255), Golomb(), sparsify=TopK(0.01)),
    "all kept": StagedCodec(StochasticLevels(1), TwoWay()),
    "int2": StagedCodec(Integer(2), FixedWidth()),
    "int8 of the kept": StagedCodec(Integer(8), Golomb(), sparsify=TopK(0.3, "token")),
    "float8": StagedCodec(Float8(), FixedWidth()),
    "dead zone": StagedCodec(DeadZone(RelativeStep(1.0)), TwoWay(), centre=True),
    "cosine": StagedCodec(
        DeadZone(TargetCosine(0.9)), TwoWay(), transform=LearnedBasis(0.7, warm_up=1)
    ),
    "feedback": ErrorFeedback(presets.paper(0.1).up),
    "references": References(presets.best().up, 40),
    "delta": Delta(StagedCodec(DeadZone(TargetBits(2.0)), TwoWay(), centre=True)),
}
each_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())
TINY = float(np.finfo(np.float32).smallest_subnormal)
# error feedback adds up what three packets lose
HUGE = LARGEST_MAGNITUDE / 16


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def with_one(shape, value):
    tensor = normal(shape)
    tensor.reshape(-1)[-1] = value
    return tensor


def one_channel(shape, scale):
    tensor = normal(shape)
    tensor[..., 0] *= scale
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
    "one huge channel": one_channel((2, 9, 32), 1e5),
    "many lanes": normal((2, 65, 64)),
    "not contiguous": normal((8, 5, 2)).transpose(2, 1, 0),
    "no sample": np.zeros((0, 5, 8), dtype=np.float32),
    "no column": np.zeros((2, 5, 0), dtype=np.float32),
}


def check_shape(tensor, decoded, lengths=None):
    """The lengths, the padding, the type and finiteness are as promised."""
    assert decoded.tensor.dtype == np.float32
    assert decoded.tensor.shape == tensor.shape
    assert decoded.tensor.flags.writeable
    assert np.isfinite(decoded.tensor).all()
    if tensor.ndim == 3:
        counted = (tensor.shape[1],) * tensor.shape[0] if lengths is None else tuple(lengths)
        assert decoded.lengths == counted
        for received, length in zip(decoded.tensor, counted, strict=True):
            assert not received[length:].any()


def test_every_codec_takes_part():
    ours = {
        kind for kind in Codec.__subclasses__() if kind.__module__.startswith("cutlayer.codec.")
    }
    assert {type(codec) for codec in CODECS.values()} == ours


@each_codec
@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS.keys())
def test_a_tensor_comes_back_in_shape_again_and_again(codec, tensor):
    ends = Ends(codec)
    for _ in range(3):
        check_shape(tensor, ends.send(tensor)[1])


@each_codec
@pytest.mark.parametrize("shape", [(), (7,), (3, 7), (2, 3, 7), (2, 3, 2, 7), (0,), (1, 1, 1, 1)])
def test_any_number_of_dimensions_up_to_four_comes_back(codec, shape):
    tensor = normal(shape) if shape else np.array(1.5, dtype=np.float32)
    if isinstance(codec, Delta | ErrorFeedback) and tensor.ndim != 3:
        with pytest.raises(PacketError, match="remembers samples"):
            Ends(codec).send(tensor)
    else:
        check_shape(tensor, Ends(codec).send(tensor)[1])


@st.composite
def shapes_and_lengths(draw):
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 20)))
    lengths = st.lists(st.integers(0, shape[1]), min_size=shape[0], max_size=shape[0])
    return shape, draw(st.none() | lengths)


@each_codec
@at_most(6)
@given(shapes_and_lengths(), st.integers(0, 2**32), st.floats(1e-40, 1e28))
def test_any_shape_and_lengths_come_back(codec, shaped, seed, scale):
    shape, lengths = shaped
    values = np.random.default_rng(seed).uniform(-1, 1, size=shape) * scale
    tensor = values.astype(np.float32)
    check_shape(tensor, Ends(codec).send(tensor, lengths)[1], lengths)


@each_codec
def test_the_same_tensors_and_seed_give_the_same_bytes(codec):
    tensors = [normal((4, 17, 32), seed) for seed in range(4)]
    first, second = Ends(codec), Ends(codec)
    for tensor in tensors:
        assert first.send(tensor, (3, 17, 0, 9))[0] == second.send(tensor, (3, 17, 0, 9))[0]


@each_codec
def test_a_state_that_was_handed_out_never_changes(codec):
    ends, tensor = Ends(codec), normal((4, 17, 8))
    ends.send(tensor)
    states = [
        (dict(state), {k: v.copy() for k, v in state.items()})
        for state in (ends.sender, ends.receiver)
    ]
    ends.send(normal((4, 17, 8), 1))
    for state, before in states:
        for name, array in state.items():
            np.testing.assert_array_equal(array, before[name])


@each_codec
def test_encoding_leaves_the_tensor_alone(codec):
    tensor = normal((2, 5, 8))
    tensor.flags.writeable = False
    before = tensor.copy()
    Ends(codec).send(tensor)
    np.testing.assert_array_equal(tensor, before)


@each_codec
def test_padding_changes_nothing(codec):
    tensor, other = normal((3, 6, 8)), normal((3, 6, 8))
    other[0, 2:] = np.nan
    other[2, 5:] = HUGE
    packets = {Ends(codec).send(values, (2, 6, 5))[0] for values in (tensor, other)}
    assert len(packets) == 1


@each_codec
def test_padding_saves_bytes(codec):
    # several packets, so that a step that follows a target has found it
    sizes = []
    for lengths in (None, (32, 32, 32, 32)):
        ends = Ends(codec)
        sizes.append(sum(len(ends.send(normal((4, 64, 64), n), lengths)[0]) for n in range(3)))
    assert sizes[1] < sizes[0]


@each_codec
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(codec, value):
    with pytest.raises(PacketError, match=r"1 of 24 values .* sample 1, token 2, column 3"):
        Ends(codec).send(with_one((2, 3, 4), value))


@each_codec
@pytest.mark.parametrize("lengths", [(1,), (1, 4), (-1, 3), ()])
def test_lengths_that_do_not_fit_are_refused(codec, lengths):
    with pytest.raises(PacketError, match="length"):
        Ends(codec).send(normal((2, 3, 4)), lengths)


@each_codec
def test_five_dimensions_are_refused(codec):
    with pytest.raises(PacketError, match="dimensions"):
        Ends(codec).send(np.zeros((1, 1, 2, 3, 4), dtype=np.float32))


@each_codec
@pytest.mark.parametrize("shape", [(3, 2, 4), (2, 3, 5), (1, 3, 8), (0, 0, 0), (6, 4), (24,)])
def test_a_packet_of_another_shape_is_refused(codec, shape):
    packet, _ = Ends(codec).send(normal((2, 3, 4)))
    with pytest.raises(PacketError, match="shape"):
        codec.decode(packet, shape, EMPTY)


def test_a_packet_of_other_stages_is_refused():
    packet, _ = Ends(presets.paper().up).send(normal((4, 9, 8)))
    with pytest.raises(PacketError, match=r"packet of stages .* set the same codec on both ends"):
        presets.paper_rans().up.decode(packet, (4, 9, 8), EMPTY)
    with pytest.raises(PacketError, match="kind 'staged', expected 'none'"):
        RawCodec().decode(packet, (4, 9, 8), EMPTY)


@each_codec
def test_expected_bytes_grow_with_the_shape(codec):
    sizes = [codec.expected_bytes((batch, 17, 64)) for batch in (1, 2, 4, 8)]
    assert sizes == sorted(set(sizes))


QUANTISERS = [StochasticLevels(7), DeadZone(RelativeStep(0.7)), Integer(2), Integer(5), Float8()]
TRANSFORMS = [None, Hadamard(), LearnedBasis(0.5, warm_up=1)]
SPARSIFIERS = [None, TopK(0.2), TopK(0.2, "token"), TopK(0.2, "batch")]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
@pytest.mark.parametrize("quantiser", QUANTISERS, ids=repr)
@pytest.mark.parametrize("sparsify", SPARSIFIERS, ids=repr)
def test_every_composition_decodes_alike_whatever_codes_its_symbols(transform, quantiser, sparsify):
    centre = sparsify is None
    decoded = []
    for entropy in (FixedWidth(), Golomb(), TwoWay()):
        ends = Ends(StagedCodec(quantiser, entropy, centre, transform, sparsify))
        decoded.append([ends.send(normal((2, 9, 16), n), (9, 4))[1].tensor for n in range(3)])
    for one, other in itertools.pairwise(decoded):
        np.testing.assert_array_equal(one, other)
