"""All forms of the loops over side information give the same, and leave writer and reader alike."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.forms import BOTH, FORMS, alike, check_same
from cutlayer.codec.kernels.adaptive_bits import BitReader, BitWriter, Number
from cutlayer.codec.kernels.kernels import FREQUENCY_SUM
from cutlayer.codec.tables import HAZARD_EDGES
from cutlayer.errors import PacketError
from examples import at_most


def counts_of(seed, kinds, reach):
    """Of magnitudes that fall, some classes nearly empty, some with many symbols."""
    rng = np.random.default_rng(seed)
    odds = rng.geometric(0.1 + 0.8 * rng.random(kinds)[:, None], (kinds, 500)) - 1
    counts = np.array([np.bincount(np.minimum(row, reach), minlength=reach + 1) for row in odds])
    return counts * rng.choice([0, 1, 1000, 10**9], (kinds, 1)).astype(np.int64)


def written(form, before, counts, sizes):
    """The hazards of a writer that has had numbers before, and its code."""
    writer, number = BitWriter(), Number(2)
    for value in before:
        number.put_signed(value, writer)
    hazards = form.write_hazards(counts, sizes, HAZARD_EDGES, writer)
    number.put(5, writer)
    return hazards, np.frombuffer(writer.to_bytes(), dtype=np.uint8)


@at_most(60)
@given(
    st.integers(0, 10**6),
    st.integers(1, 9),
    st.integers(1, 62),
    st.lists(st.integers(-40, 40), max_size=40),
)
def test_all_forms_write_and_read_the_same_hazards(seed, kinds, reach, before):
    counts = counts_of(seed, kinds, reach)
    sizes = counts.sum(1)
    hazards, code = written(FORMS[0], before, counts, sizes)
    for form in FORMS[1:]:
        alike(written(form, before, counts, sizes), (hazards, code))
    for form in FORMS:
        reader, number = BitReader(code.tobytes()), Number(2)
        assert [number.get_signed(reader) for _ in before] == before
        alike(form.read_hazards(sizes, reach, HAZARD_EDGES, reader), hazards)
        assert number.get(reader) == 5
        assert not reader.left


def test_a_carry_runs_into_the_bytes_before():
    """Numbers until a code stands whose last byte the hazards' first bits change."""
    carried = 0
    for seed in range(400):
        counts = counts_of(seed, 3, 9)
        before = np.random.default_rng(seed).integers(-9, 9, 30).tolist()
        results = []
        for form in (FORMS[0], FORMS[1]):
            writer, number = BitWriter(), Number(2)
            for value in before:
                number.put_signed(value, writer)
            head = bytes(writer.code)
            form.write_hazards(counts, counts.sum(1), HAZARD_EDGES, writer)
            results.append((bytes(writer.code), writer.low, writer.range))
            carried += not writer.code.startswith(head)
        assert results[0] == results[1]
    assert carried > 0


@given(st.binary(max_size=60), st.integers(1, 4), st.integers(1, 62), st.integers(0, 10**6))
def test_any_bytes_are_hazards_or_are_refused_alike(code, kinds, reach, size):
    outcomes = []
    for form in FORMS:
        reader = BitReader(code)
        try:
            sizes = np.full(kinds, size)
            found = form.read_hazards(sizes, reach, HAZARD_EDGES, reader).tolist()
            outcomes.append((found, reader.next, reader.range, reader.value))
        except PacketError as error:
            outcomes.append(str(error))
    assert outcomes.count(outcomes[0]) == len(FORMS)


@at_most(60)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 62))
def test_all_forms_make_the_same_tables(seed, kinds, reach):
    hazards = FORMS[0].write_hazards(
        counts_of(seed, kinds, reach), np.full(kinds, 500), HAZARD_EDGES, BitWriter()
    )
    shares = check_same("magnitude_shares", hazards)
    table = check_same("twelve_bits", shares << 8)
    assert (table.sum(1) == FREQUENCY_SUM).all()
    assert ((table > 0) == (shares > 0)).all()


@given(st.lists(st.integers(0, 9), max_size=80), st.integers(1 << 16, (1 << 32) - 1))
def test_all_forms_code_a_few_symbols_alike(drawn, state):
    symbols = np.array(drawn, dtype=np.int64)
    weights = (1 + np.bincount(symbols, minlength=10))[None] << 20
    (table,) = check_same("twelve_bits", weights << 32 >> int(weights.sum()).bit_length())
    after, words = check_same("short_encode", symbols, table, state)
    back = np.array(words[::-1], dtype=np.uint16)
    found, before, taken = check_same("short_decode", back, symbols.size, table, after)
    assert (found.tolist(), before, taken) == (drawn, state, len(words))


@BOTH
def test_a_few_symbols_without_their_words_are_refused(kernels):
    even = np.array([2048, 2048], dtype=np.uint16)
    with pytest.raises(PacketError, match="ends before"):
        kernels.short_decode(np.zeros(0, dtype=np.uint16), 5, even, 1 << 16)


@BOTH
def test_work_that_goes_on_beside_gives_its_result_whenever_it_is_asked(kernels):
    waiting = [kernels.start(lambda number=number: number * 2) for number in range(5)]
    assert [wait() for wait in reversed(waiting)] == [8, 6, 4, 2, 0]
