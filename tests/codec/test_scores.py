"""Scores of rows and columns, and how series of them are coded."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.codec.adaptive_bits import BitReader, BitWriter, Number
from cutlayer.codec.kernels.load import load_kernels
from cutlayer.codec.tables import Scores, SeriesReader, ShortDecoder, log_scale, write_scores
from cutlayer.errors import PacketError
from examples import at_most

KERNELS = load_kernels()


def reader_of(sections, model):
    return SeriesReader(BitReader(model), ShortDecoder(sections["scores"]), KERNELS)


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
