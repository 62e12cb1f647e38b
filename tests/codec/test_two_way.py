"""Two-way contexts: the coder, its layouts, and what lies beyond its tables."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.adaptive import entropy_bits
from codec.ends import any_symbols
from codec.forms import FORMS
from codec.test_entropy import heavy_tailed
from cutlayer.codec.kernels.adaptive_bits import BitReader, BitWriter
from cutlayer.codec.kernels.native import load_kernels
from cutlayer.codec.tables import Scores
from cutlayer.codec.two_way import (
    Contexts,
    TwoWay,
    layout_of,
    read_excesses,
    read_layout,
    refined_layout,
    write_excesses,
    write_layout,
)
from cutlayer.errors import PacketError
from examples import at_most

KERNELS = load_kernels()
# the 32 lanes of the code begin with 16 bits each that say nothing, and end with 8 on average
LANE_BYTES = 96


def size_bytes(symbols):
    sections = TwoWay().encode(symbols, KERNELS)
    np.testing.assert_array_equal(
        TwoWay().decode(sections, *symbols.shape, KERNELS), symbols, strict=True
    )
    return sum(map(len, sections.values()))


@at_most(60)
@given(st.integers(0, 2**32 - 1), st.sampled_from((1, 3, 40, 300)), st.integers(1, 90))
def test_all_forms_choose_and_write_the_same(seed, rows, columns):
    symbols = any_symbols(rows, columns, np.random.default_rng(seed))
    sections = TwoWay().encode(symbols, FORMS[0])
    for form in FORMS[1:3]:
        assert list(TwoWay().encode(symbols, form).items()) == list(sections.items())


@pytest.mark.parametrize("shape", [(2300, 60), (40, 2300)])
def test_all_forms_write_the_same_of_long_series(shape):
    symbols = heavy_tailed(*shape, np.random.default_rng(0))
    portable, native = (TwoWay().encode(symbols, form) for form in FORMS[:2])
    assert list(portable) == list(native)
    assert portable == native
    assert ("row scores" in native) == (shape[0] > shape[1])


@pytest.mark.parametrize("step", [1.0, 4.0, 12.0])
@pytest.mark.parametrize(("shape", "tolerance"), [((272, 384), 0.015), ((1088, 384), 0.01)])
def test_it_costs_hardly_more_than_the_adaptive_entropy(shape, tolerance, step):
    symbols = heavy_tailed(*shape, np.random.default_rng(0), step)
    # the entropy pays for learning tables, but not for scores: their bytes are the tolerance
    assert size_bytes(symbols) - LANE_BYTES < (1 + tolerance) * entropy_bits(symbols) / 8


def test_a_coarser_step_costs_less():
    sizes = [
        size_bytes(heavy_tailed(200, 300, np.random.default_rng(1), step))
        for step in (0.5, 1, 2, 4, 8, 16, 32, 64, 1000)
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_rows_and_columns_of_zeros_cost_nearly_nothing():
    symbols = heavy_tailed(100, 200, np.random.default_rng(2))
    wider = np.zeros((1000, 1500), dtype=np.int16)
    wider[:100, :200] = symbols
    # their number, twice, in at most 23 bits each
    assert size_bytes(wider) <= size_bytes(symbols) + 6


def test_columns_of_one_sign_cost_no_sign_bits():
    rng = np.random.default_rng(3)
    magnitudes = np.abs(heavy_tailed(300, 200, rng))
    signs = np.where(rng.random(200) < 0.5, 1, -1).astype(np.int16)
    mixed = np.where(rng.random(magnitudes.shape) < 0.5, 1, -1).astype(np.int16)
    saved_bits = 8 * (size_bytes(magnitudes * mixed) - size_bytes(magnitudes * signs))
    # a bit for each symbol, but for one a column and what 12-bit tables of both signs cost (1 %)
    assert saved_bits > 0.99 * np.count_nonzero(magnitudes) - 200 * 3


def test_side_information_is_a_small_part():
    rng = np.random.default_rng(4)
    scales = np.exp(rng.normal(size=(272, 1))) * np.exp(rng.normal(size=384))
    symbols = np.trunc(scales * rng.laplace(size=(272, 384)) / 4).astype(np.int16)
    sections = TwoWay().encode(symbols, KERNELS)
    side = sum(len(section) for name, section in sections.items() if name != "code")
    # The logarithms of the scales have a deviation of 1.44 octaves. Cells at the width that the
    # coder chooses, at least 1/4, are told apart by log2(1.44 sqrt(2 pi e) / width) < 4.6 bits;
    # 20 tables of at most 11 numbers of 5 bits
    assert side < (4.6 * (272 + 384) + 5 * 20 * 11) / 8


def test_many_chunks_come_back():
    rng = np.random.default_rng(5)
    symbols = rng.integers(-1, 2, (3000, 1000)).astype(np.int16)
    # log2(3) bits each; 2 chunks
    assert size_bytes(symbols) == pytest.approx(3e6 * np.log2(3) / 8, rel=0.002)


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


@given(st.lists(st.one_of(st.integers(0, 3), st.integers(0, 32766)), max_size=50))
def test_excesses_come_back(values):
    section = write_excesses(np.array(values, dtype=np.int64))
    assert read_excesses(section, len(values), 32766).tolist() == values


@given(st.binary(max_size=20), st.integers(0, 20))
def test_other_bytes_never_do_worse_than_a_packet_error(section, count):
    try:
        excesses = read_excesses(section, count, 100)
    except PacketError:
        return
    assert excesses.size == count
    assert ((excesses >= 0) & (excesses <= 100)).all()


@pytest.mark.parametrize(
    ("section", "count", "message"),
    [
        (b"\0", 0, "1 bytes, expected none"),
        (b"", 2, "none, expected 2"),
        (b"\x07\x01\x7f", 1, "127, expected at most 100"),
    ],
)
def test_what_is_wrong_is_said(section, count, message):
    with pytest.raises(PacketError, match=message):
        read_excesses(section, count, 100)
