"""Frequency tables from hazards, series of scores, and the short code."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from codec.forms import FORMS
from cutlayer.codec.kernels.adaptive_bits import BitReader, BitWriter, Number
from cutlayer.codec.kernels.kernels import FREQUENCY_SUM
from cutlayer.codec.kernels.native import load_kernels
from cutlayer.codec.kernels.portable import hazard
from cutlayer.codec.tables import (
    HAZARD_EDGES,
    Scores,
    SeriesReader,
    ShortDecoder,
    ShortEncoder,
    class_sizes,
    frequency_tables,
    log_scale,
    majority_share,
    write_scores,
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


KERNELS = load_kernels()


def tables_of(hazards, majorities):
    return frequency_tables(KERNELS.magnitude_shares(hazards), majorities, KERNELS)


def written(counts):
    writer = BitWriter()
    sizes = counts.sum(1)
    hazards = KERNELS.write_hazards(counts, sizes, HAZARD_EDGES, writer)
    return hazards, sizes, writer.to_bytes()


@at_most(50)
@given(counts)
def test_the_reader_has_the_writers_hazards(counts):
    hazards, sizes, code = written(counts)
    reader = BitReader(code)
    reach = counts.shape[1] - 1
    found = KERNELS.read_hazards(sizes, reach, HAZARD_EDGES, reader)
    np.testing.assert_array_equal(found, hazards)


@at_most(50)
@given(counts, st.lists(st.integers(128, 255), max_size=3))
def test_tables_sum_to_4096_and_have_every_symbol_that_occurs(counts, majorities):
    hazards, _, _ = written(counts)
    found = tables_of(hazards, [128, *majorities]).astype(np.int64)
    assert found.shape == (1 + (1 + 2 * len(majorities)) * len(counts), 2 * counts.shape[1] - 1)
    assert (found.sum(1) == 4096).all()
    sets = found[1:].reshape(-1, len(counts), found.shape[1])
    middle = counts.shape[1] - 1
    assert (sets[:, :, middle:] > 0)[:, counts > 0].all()
    assert (sets[:, :, middle::-1] > 0)[:, counts > 0].all()


def test_the_first_table_is_of_zeros_alone():
    hazards = written(np.array([[5, 3, 1]]))[0]
    assert tables_of(hazards, [128])[0].tolist() == [0, 0, 4096, 0, 0]


def test_pairs_of_sets_are_each_others_mirror():
    hazards = written(np.array([[500, 300, 100]]))[0]
    _, even, plus, minus = tables_of(hazards, [128, 200]).astype(int)
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
    shares = KERNELS.magnitude_shares(hazards)[0] / 2**24
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
    expected = np.bincount(kinds, minlength=classes)
    np.testing.assert_array_equal(class_sizes(rows, columns, classes), expected)


def test_a_hazard_beyond_its_cells_is_refused():
    # ones only: the first number is large
    for form in FORMS:
        with pytest.raises(PacketError, match="tables: a hazard"):
            form.read_hazards(np.array([9]), 3, HAZARD_EDGES, BitReader(b"\xff" * 20))


@pytest.mark.parametrize(
    ("more", "less", "share"), [(5, 0, 256), (1, 1, 128), (3, 1, 192), (9999, 1, 255)]
)
def test_majorities_leave_room_for_the_minority(more, less, share):
    assert majority_share(more, less) == share


def reader_of(sections, model):
    return SeriesReader(BitReader(model), ShortDecoder(sections["scores"], KERNELS), KERNELS)


def check_round_trip(*several):
    """The bytes of some series, which come back."""
    writer = BitWriter()
    named = {str(place): series for place, series in enumerate(several)}
    sections = write_scores(named, writer, KERNELS)
    model = writer.to_bytes()
    reader = reader_of(sections, model)
    for name, series in named.items():
        found = reader.get(series.live.size, sections.get(name, b""))
        np.testing.assert_array_equal(found.live, series.live)
        np.testing.assert_array_equal(found.values, series.values)
    return len(model) + sum(map(len, sections.values()))


def series_of(entries):
    values = [entry or 0 for entry in entries]
    return Scores(
        np.array(values, dtype=np.int64), np.array([e is not None for e in entries], dtype=np.bool_)
    )


entries = st.lists(st.one_of(st.none(), st.integers(-3, 3), st.integers(-60, 60)), max_size=40)


@at_most(50)
@given(st.lists(entries.map(series_of), max_size=3))
def test_any_series_come_back(several):
    check_round_trip(*several)


@pytest.mark.parametrize("count", [300, 5000])
def test_a_series_costs_its_entropy_and_its_table(count):
    values = np.random.default_rng(0).binomial(20, 0.5, count)
    counts = np.bincount(values)[np.bincount(values) > 0]
    entropy_bytes = (counts * np.log2(count / counts)).sum() / 8
    # 20 numbers of 8 bits for the table and 4 bytes for a state, or 128 for the kernels' states
    assert check_round_trip(Scores(values, np.ones(count, dtype=np.bool_))) < entropy_bytes + 24 + (
        128 if count == 5000 else 0
    )


def test_a_slowly_falling_series_is_coded_by_its_differences():
    values = np.arange(400) // -10
    # 9 of 10 differences are 0, the others -1: .47 bits each, against 5.3 for the values
    assert check_round_trip(Scores(values, np.ones(400, dtype=np.bool_))) < 400 * 0.47 / 8 + 12


def test_scores_of_a_product_add_up():
    # a Laplacian of scale s [steps] exceeds k steps with probability exp(-k / s)
    scales = np.array([0.1, 0.5, 1.0, 7.0, 300.0])
    means = 1 / np.expm1(1 / scales)
    # rounding of the mean, 1e-16 relative, is all there is
    np.testing.assert_allclose(log_scale(means), np.log2(scales), atol=1e-12)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((11, 0, 0, 0), "scores: -1 from 0"),
        ((0, 2, 0, 0), "running 2"),
        ((0, 0, 600, 0), "from 600"),
        ((0, 0, 0, 999), "spread 1000"),
        ((0, 0, 0, 0, 0), "from 513"),
    ],
)
def test_a_series_beyond_what_scores_can_be_is_refused(numbers, message):
    writer, number = BitWriter(), Number(1)
    left, running, low, spread, *more = numbers
    number.put(left, writer)
    number.put(running, writer)
    number.put_signed(513 if more else low, writer)
    number.put(spread, writer)
    with pytest.raises(PacketError, match=message):
        reader_of({"scores": b""}, writer.to_bytes()).get(10, b"")


def test_a_section_for_a_short_series_is_refused():
    writer = BitWriter()
    sections = write_scores({"rows": series_of([1, 2, 3])}, writer, KERNELS)
    with pytest.raises(PacketError, match="7 bytes for a short series"):
        reader_of(sections, writer.to_bytes()).get(3, bytes(7))


series = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=50), max_size=4)


def table_of(symbols):
    counts = np.bincount(symbols, minlength=10)
    table = np.maximum(counts * FREQUENCY_SUM // max(len(symbols), 1), counts > 0)
    table[np.argmax(table)] += FREQUENCY_SUM - table.sum()
    return table.astype(np.uint16)


@given(series)
def test_several_series_come_back(several):
    encoder = ShortEncoder(KERNELS)
    for symbols in reversed(several):
        encoder.put(np.array(symbols), table_of(symbols))
    decoder = ShortDecoder(encoder.to_bytes(), KERNELS)
    for symbols in several:
        assert decoder.get(len(symbols), table_of(symbols)).tolist() == symbols
    decoder.finish()


def test_it_costs_the_entropy_and_three_bytes():
    symbols = np.random.default_rng(0).binomial(9, 0.3, 2000).tolist()
    table = table_of(symbols)
    encoder = ShortEncoder(KERNELS)
    encoder.put(np.array(symbols), table)
    ideal_bytes = sum(np.log2(4096 / table[symbol]) for symbol in symbols) / 8
    # the state starts with 16 bits that say nothing and ends with up to 15 more; the states are at
    # least 16 times the frequencies' sum, so that rounding costs under 2^-4 / 2 of a bit at worst
    assert ideal_bytes + 2 - 1 <= len(encoder.to_bytes()) <= 1.005 * ideal_bytes + 4


def test_certain_symbols_take_no_bytes():
    encoder = ShortEncoder(KERNELS)
    encoder.put(np.ones(1000, dtype=np.int64), np.array([0, 4096], dtype=np.uint16))
    assert encoder.to_bytes() == b""
    decoder = ShortDecoder(b"", KERNELS)
    assert decoder.get(1000, np.array([0, 4096], dtype=np.uint16)).tolist() == [1] * 1000
    decoder.finish()


@pytest.mark.parametrize("code", [b"\x01", b"\0\0\0", b"\0\0\1\0\0"])
def test_a_code_of_no_whole_words_is_refused(code):
    with pytest.raises(PacketError, match=f"{len(code)} bytes"):
        ShortDecoder(code, KERNELS)


def test_a_code_too_short_or_too_long_is_refused():
    with pytest.raises(PacketError, match="ends before"):
        ShortDecoder(b"", KERNELS).get(5, np.array([2048, 2048], dtype=np.uint16))
    decoder = ShortDecoder(b"\0\0\1\0\5\5", KERNELS)
    with pytest.raises(PacketError, match="goes on"):
        decoder.finish()
