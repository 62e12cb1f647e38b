"""Frequency tables from hazards."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cutlayer.codec.adaptive_bits import BitReader, BitWriter
from cutlayer.codec.tables import (
    HAZARD_EDGES,
    class_sizes,
    frequency_tables,
    hazard,
    magnitude_shares,
    majority_share,
    read_hazards,
    write_hazards,
)
from cutlayer.errors import PacketError
from examples import at_most

counts = st.tuples(st.integers(1, 4), st.integers(2, 63)).flatmap(
    lambda shape: arrays(
        np.int64,
        shape,
        elements=st.one_of(st.integers(0, 3), st.integers(0, 10**6)),
        fill=st.just(0),
    )
)


def written(counts):
    writer = BitWriter()
    sizes = counts.sum(1).tolist()
    hazards = write_hazards(counts, sizes, HAZARD_EDGES, writer)
    return hazards, sizes, writer.to_bytes()


@at_most(50)
@given(counts)
def test_the_reader_has_the_writers_hazards(counts):
    hazards, sizes, code = written(counts)
    reader = BitReader(code)
    reach = counts.shape[1] - 1
    np.testing.assert_array_equal(read_hazards(sizes, reach, HAZARD_EDGES, reader), hazards)


@at_most(50)
@given(counts, st.lists(st.integers(128, 255), max_size=3))
def test_tables_sum_to_4096_and_have_every_symbol_that_occurs(counts, majorities):
    hazards, _, _ = written(counts)
    found = frequency_tables(magnitude_shares(hazards), [128, *majorities]).astype(np.int64)
    assert found.shape == (1 + (1 + 2 * len(majorities)) * len(counts), 2 * counts.shape[1] - 1)
    assert (found.sum(1) == 4096).all()
    sets = found[1:].reshape(-1, len(counts), found.shape[1])
    middle = counts.shape[1] - 1
    assert (sets[:, :, middle:] > 0)[:, counts > 0].all()
    assert (sets[:, :, middle::-1] > 0)[:, counts > 0].all()


def test_the_first_table_is_of_zeros_alone():
    shares = magnitude_shares(written(np.array([[5, 3, 1]]))[0])
    assert frequency_tables(shares, [128])[0].tolist() == [0, 0, 4096, 0, 0]


def test_pairs_of_sets_are_each_others_mirror():
    shares = magnitude_shares(written(np.array([[500, 300, 100]]))[0])
    _, even, plus, minus = frequency_tables(shares, [128, 200]).astype(int)
    np.testing.assert_array_equal(plus[::-1], minus)
    np.testing.assert_array_equal(even[::-1], even)
    # 200 of 256 are positive; frequencies are rounded by 1/2, the largest takes the rest
    assert plus[3] / plus[1] == pytest.approx(200 / 56, rel=0.01)


def test_a_table_is_as_precise_as_its_counts_deserve():
    rng = np.random.default_rng(0)
    counts = rng.multinomial(100_000, [0.7, 0.2, 0.07, 0.03])[None]
    hazards, _, code = written(counts)
    # each hazard is half a cell of pi / 2 / sqrt(n) off at most: n (cell / 2)^2 2 / ln 2 bits lost
    # at most, .44 of a bit on top of up to 1.5 for staying near the prediction
    shares = magnitude_shares(hazards)[0] / 2**24
    lost_bits = (counts[0] * np.log2(counts[0] / counts.sum() / shares)).sum()
    assert 0 <= lost_bits < 3 * (1.5 + 0.9)
    assert len(code) <= 6


def test_hazards_at_the_ends_are_certain():
    assert hazard(0, 7) == 0
    assert hazard(7, 7) == 1 << 24
    assert [hazard(cell, 1024) for cell in range(1025)] == sorted(
        {hazard(cell, 1024) for cell in range(1025)}
    )
    # x^2 (3 - 2x) at 1/2
    assert hazard(2, 4) == 1 << 23


@given(
    arrays(np.int64, st.integers(0, 9), elements=st.integers(-20, 20)),
    arrays(np.int64, st.integers(0, 9), elements=st.integers(-20, 20)),
    st.integers(1, 12),
)
def test_class_sizes_are_what_counting_gives(rows, columns, classes):
    kinds = np.clip(rows[:, None] + columns[None], 0, classes - 1).reshape(-1)
    expected = np.bincount(kinds, minlength=classes).tolist()
    assert class_sizes(rows, columns, classes) == expected


def test_a_hazard_beyond_its_cells_is_refused():
    # ones only: the first number is large
    with pytest.raises(PacketError, match="tables: hazard"):
        read_hazards([9], 3, HAZARD_EDGES, BitReader(b"\xff" * 20))


@pytest.mark.parametrize(
    ("more", "less", "share"), [(5, 0, 256), (1, 1, 128), (3, 1, 192), (9999, 1, 255)]
)
def test_majorities_leave_room_for_the_minority(more, less, share):
    assert majority_share(more, less) == share
