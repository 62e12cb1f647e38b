"""Segments: what is coded of a padded tensor."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.codec.codec import Segments, seen_as_tokens, segments_of
from cutlayer.codec.kernels.native import load_kernels
from cutlayer.errors import PacketError

KERNELS = load_kernels()


@st.composite
def shapes_and_lengths(draw):
    batch, token, width = (draw(st.integers(1, 5)) for _ in range(3))
    lengths = draw(st.lists(st.integers(0, token), min_size=batch, max_size=batch))
    return (batch, token, width), lengths


@given(shapes_and_lengths())
def test_scatter_undoes_gather_and_zeroes_the_padding(shaped):
    which = Segments.of(*shaped)
    tensor = np.random.default_rng(0).normal(size=which.shape).astype(np.float32)
    values = which.gather(tensor, KERNELS)
    back = which.scatter(values, KERNELS.arrays)
    expected = tensor.copy()
    for sample, length in enumerate(which.lengths):
        expected[sample, length:] = 0
    assert values.shape == (which.rows, which.width)
    assert values.size == which.total == which.sizes(which.width).sum()
    np.testing.assert_array_equal(back, expected)


def test_segments_follow_one_another_sample_by_sample():
    tensor = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    values = Segments((2, 3, 2), (1, 2)).gather(tensor, KERNELS)
    np.testing.assert_array_equal(values, [[0, 1], [6, 7], [8, 9]])


def test_padding_may_hold_anything():
    tensor = np.full((1, 2, 2), np.nan, dtype=np.float32)
    tensor[0, 0] = [1, 2]
    np.testing.assert_array_equal(Segments((1, 2, 2), (1,)).gather(tensor, KERNELS), [[1, 2]])


def test_values_that_are_not_finite_are_counted_and_the_first_is_placed():
    tensor = np.zeros((2, 3, 4), dtype=np.float32)
    tensor[1, 0, 2] = np.inf
    tensor[1, 1, 3] = np.nan
    tensor[1, 2, 0] = np.nan  # padding
    with pytest.raises(PacketError, match=r"2 of 20 .* sample 1, token 0, column 2"):
        Segments((2, 3, 4), (3, 2)).gather(tensor, KERNELS)


@pytest.mark.parametrize(
    ("shape", "lengths", "message"),
    [
        ((2, 3, 4), (3,), "1 lengths for 2 samples"),
        ((2, 3, 4), (3, 4), r"length 4 of sample 1 is not within 0\.\.3"),
        ((2, 3, 4), (-1, 3), "length -1 of sample 0"),
    ],
)
def test_shapes_and_lengths_that_do_not_fit_are_refused(shape, lengths, message):
    with pytest.raises(PacketError, match=message):
        Segments.of(shape, lengths)


def test_lengths_need_a_batch_of_tokens():
    with pytest.raises(PacketError, match=r"shape \(2, 3\); expected \[batch, token, width\]"):
        segments_of(np.zeros((2, 3), dtype=np.float32), (3, 3))


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        ((), (1, 1, 1)),
        ((7,), (1, 1, 7)),
        ((3, 7), (1, 3, 7)),
        ((2, 3, 7), (2, 3, 7)),
        ((2, 3, 5, 7), (2, 15, 7)),
        ((0, 3, 7), (0, 3, 7)),
    ],
)
def test_any_tensor_is_seen_as_tokens(shape, seen):
    assert seen_as_tokens(shape) == seen


def test_magnitudes_beyond_a_limit_are_refused():
    with pytest.raises(PacketError, match=r"magnitude 7: .* below 7"):
        Segments.full((1, 1, 2)).gather(np.array([[[1, -7]]], dtype=np.float32), KERNELS, 7.0)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (np.zeros((1, 2, 3)), "a tensor of float64; convert it to float32"),
        (np.zeros((1, 2, 3), dtype=">f4"), "convert it to float32"),
        (np.zeros((1, 1, 1, 2, 3), dtype=np.float32), r"at most 4 dimensions; reshape it"),
    ],
)
def test_a_tensor_of_the_wrong_kind_is_refused(tensor, message):
    with pytest.raises(PacketError, match=message):
        segments_of(tensor, None)


def test_the_wrong_kind_is_refused_where_no_test_checks_types():
    # the suite's import hook would stop a float64 tensor before the codec sees it
    script = (
        "import numpy as np\n"
        "from cutlayer.codec.raw import RawCodec\n"
        "RawCodec().encode(np.zeros((1, 1, 1)), {}, np.random.default_rng(0))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "PacketError: a tensor of float64; convert it to float32" in done.stderr
