"""Layouts: scores of a product of scales, skews, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.test_coder import heavy_tailed
from cutlayer.codec.adaptive_bits import BitReader, BitWriter
from cutlayer.codec.kernels.load import load_kernels
from cutlayer.codec.tables import Scores
from cutlayer.codec.two_way import Contexts, layout_of, read_layout, refined_layout, write_layout
from cutlayer.errors import PacketError
from examples import at_most

KERNELS = load_kernels()


def product(rows, columns, rng):
    """Laplacian values, cut to whole numbers, with these scales of rows and columns."""
    scales = rows[:, None] * columns
    return np.trunc(scales * rng.laplace(size=scales.shape)).astype(np.int16)


def all_live(values):
    return Scores(np.array(values, dtype=np.int64), np.ones(len(values), dtype=np.bool_))


@at_most(30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_a_layout_comes_back(rows, columns, seed):
    symbols = heavy_tailed(rows, columns, np.random.default_rng(seed), 0.3)
    if not symbols.any():
        symbols[0, 0] = 1
    layout, classes = layout_of(KERNELS.sums(symbols))
    assert 1 <= classes <= 96
    writer = BitWriter()
    sections = write_layout(layout, writer, KERNELS)
    found = read_layout(sections, rows, columns, BitReader(writer.to_bytes()), KERNELS)
    for one, other in ((found.rows, layout.rows), (found.columns, layout.columns)):
        np.testing.assert_array_equal(one.live, other.live)
        np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(found.skews, layout.skews)


def test_scores_follow_the_scales():
    rng = np.random.default_rng(0)
    rows, columns = np.exp2(rng.normal(size=300)), np.exp2(rng.normal(size=400))
    layout, _ = layout_of(KERNELS.sums(product(rows, columns, rng)))
    for series, scales in ((layout.rows, rows), (layout.columns, columns)):
        octaves = np.log2(scales)
        groups = [octaves[series.values == score] for score in np.unique(series.values)]
        groups = [group for group in groups if group.size >= 10]
        means = [group.mean() for group in groups]
        assert len(means) >= 5
        assert means == sorted(means)
        # A cell of half an octave, up to 2/3 where cut values bend the scale, deviates by .19; a
        # sum of 300 magnitudes, lognormal in scale, by sqrt(1.6 / 300) / ln 2 = .11 octaves, up to
        # twice that where most are cut to 0: .29 in all
        spreads = [(group - mean) ** 2 for group, mean in zip(groups, means, strict=True)]
        assert np.sqrt(np.concatenate(spreads).mean()) < 0.29


def test_refining_matches_the_sums_that_the_classes_predict():
    means = np.array([0.1, 0.2, 0.4, 0.8, 1.6])
    columns = all_live([0, 1, 2, 3])
    layout = Contexts(all_live([0, 0, 1, 1]), columns, np.zeros(4, dtype=np.int64))
    # rows of score 0 expect .1 + .2 + .4 + .8 = 1.5, of score 1 3.0, of score 2 4.4 (the highest
    # class twice); between them the geometric means, 2.1 and 3.6, decide
    symbols = np.zeros((4, 4), dtype=np.int16)
    symbols[:, 0] = 3, 1, 2, 3
    symbols[:, 1:] = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    sums = KERNELS.sums(symbols)
    found, _ = refined_layout(layout, sums, means)
    assert sums.rows.tolist() == [3, 2, 3, 4]
    assert found.rows.values.tolist() == [1, 0, 1, 2]


def test_columns_of_one_sign_are_skewed():
    rng = np.random.default_rng(1)
    symbols = product(np.full(300, 2.0), np.full(30, 2.0), rng)
    symbols[:, :10] = abs(symbols[:, :10])
    symbols[:, 10:20] = -abs(symbols[:, 10:20])
    layout, _ = layout_of(KERNELS.sums(symbols))
    assert layout.skews.tolist() == [5] * 10 + [6] * 10 + [0] * 10
    assert layout.levels == 3


@pytest.mark.parametrize("skew", [-1, 7])
def test_a_skew_of_no_level_is_refused(skew):
    layout = Contexts(all_live([0]), all_live([0, 0]), np.array([0, skew]))
    writer = BitWriter()
    sections = write_layout(layout, writer, KERNELS)
    with pytest.raises(PacketError, match=r"skews: beyond 0\.\.6"):
        read_layout(sections, 1, 2, BitReader(writer.to_bytes()), KERNELS)
