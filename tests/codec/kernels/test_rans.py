"""Both forms of the entropy coder give the same bytes, those of a decoder in plain integers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.forms import BOTH, FORMS, alike, check_same
from cutlayer.codec.kernels.kernels import (
    FREQUENCY_SUM,
    LANES,
    SKIPPED_ROW,
    ContextModel,
)
from cutlayer.codec.kernels.threads import chunk_bounds
from cutlayer.errors import PacketError


def tables_from(rng, count, reach, alone):
    """`count` tables of frequencies that sum up; with one symbol only where `alone`."""
    size = 2 * reach + 1
    tables = np.zeros((count, size), dtype=np.uint16)
    for table in tables:
        if alone:
            table[rng.integers(size)] = FREQUENCY_SUM
            continue
        cuts = np.sort(rng.choice(np.arange(1, FREQUENCY_SUM), size - 1, replace=False))
        table[:] = np.diff([0, *cuts, FREQUENCY_SUM])
    return tables


def drawn(seed, rows, columns, coded, reach=4, alone=False, skip=0.2):
    """A random model, and symbols that it can code (zeros where it codes none)."""
    rng = np.random.default_rng(seed)
    classes, column_tables = int(rng.integers(1, 6)), 3
    frequencies = tables_from(rng, classes * column_tables, reach, alone)
    row_scores = rng.integers(-9, 9, rows).astype(np.int16)
    row_scores[rng.random(rows) < skip] = SKIPPED_ROW
    model = ContextModel(
        row_scores=row_scores,
        column_scores=rng.integers(-9, 9, coded).astype(np.int16),
        column_tables=(rng.integers(0, column_tables, coded) * classes).astype(np.int16),
        classes=classes,
        frequencies=frequencies,
    )
    q = np.zeros((rows, columns), dtype=np.int16)
    for row in np.flatnonzero(row_scores != SKIPPED_ROW):
        q[row, :coded] = [
            rng.choice(frequencies.shape[1], p=frequencies[table] / FREQUENCY_SUM) - reach
            for table in tables_of(model, row)
        ]
    return model, q


def tables_of(model, row):
    """The definition: which table codes each column of the row."""
    score = int(model.row_scores[row]) + model.column_scores.astype(int)
    return model.column_tables + np.clip(score, 0, model.classes - 1)


def decode_one_by_one(code, model, first, last, columns):
    """The definition: symbol after symbol, in Python's integers."""
    states = [int.from_bytes(code[4 * i : 4 * i + 4], "little") for i in range(LANES)]
    words = [int.from_bytes(code[at : at + 2], "little") for at in range(4 * LANES, len(code), 2)]
    q, place = np.zeros((last - first, columns), dtype=np.int16), 0
    for row in range(first, last):
        if model.row_scores[row] == SKIPPED_ROW:
            continue
        for column, table in enumerate(tables_of(model, row)):
            state = states[place % LANES]
            frequencies = model.frequencies[table].tolist()
            slot, symbol = state % FREQUENCY_SUM, 0
            while slot >= frequencies[symbol]:
                slot -= frequencies[symbol]
                symbol += 1
            state = frequencies[symbol] * (state >> 12) + slot
            states[place % LANES] = state << 16 | words.pop(0) if state < 2**16 else state
            q[row - first, column] = symbol - model.reach
            place += 1
    return q, states, words


shapes = st.tuples(st.integers(0, 9), st.integers(1, 70), st.floats(0, 1)).map(
    lambda drawn: (drawn[0], drawn[1], int(drawn[1] * drawn[2]))
)


@given(st.integers(0, 99), shapes, st.sampled_from([0, 1, 8]), st.booleans(), st.integers(1, 4))
def test_codes_come_back(seed, shape, reach, alone, chunks):
    model, q = drawn(seed, *shape, reach=reach, alone=alone)
    codes = check_same("rans_encode", q, model, chunks)
    assert len(codes) == chunks
    np.testing.assert_array_equal(check_same("rans_decode", codes, model, q.shape[1]), q)


@pytest.mark.parametrize(("rows", "columns", "coded"), [(3, 40, 40), (5, 33, 31), (2, 7, 0)])
def test_a_code_is_what_its_definition_says(rows, columns, coded):
    model, q = drawn(7, rows, columns, coded)
    codes = check_same("rans_encode", q, model, 2)
    for code, (first, last) in zip(codes, chunk_bounds(rows, 2), strict=True):
        found, states, rest = decode_one_by_one(code, model, first, last, columns)
        np.testing.assert_array_equal(found, q[first:last])
        assert set(states) == {2**16}
        assert rest == []


@pytest.mark.parametrize("reach", [5, 127, 128, 300])
def test_long_codes_come_back_and_are_as_long_as_their_entropy(reach):
    model, q = drawn(11, 150, 131, 123, reach=reach)
    codes = check_same("rans_encode", q, model, 3)
    np.testing.assert_array_equal(check_same("rans_decode", codes, model, 131), q)
    rows = np.flatnonzero(model.row_scores != SKIPPED_ROW)
    frequency = [model.frequencies[tables_of(model, r), q[r, :123] + reach] for r in rows]
    entropy = -np.log2(np.array(frequency) / FREQUENCY_SUM).sum()
    # a lane ends with 16 to 32 bits and began with 16; dividing a state of 2^16 or more by a
    # frequency of at most 2^12 loses on average far less than 2^-4 of a bit: 0.2 % is allowed
    spent = 8 * sum(map(len, codes))
    assert entropy + 3 * LANES * 15 < spent < 1.002 * entropy + 3 * LANES * 32


@pytest.mark.parametrize("frequency", [1, 2, 3, 5, 7, 1365, 2047, 2048, 2049, 2731, 4093, 4095])
def test_every_frequency_divides_exactly(frequency):
    # the C code multiplies by a reciprocal; long runs of the symbol take the state to every
    # remainder
    rng = np.random.default_rng(frequency)
    table = np.array([[frequency, 0, FREQUENCY_SUM - frequency]], dtype=np.uint16)
    q = np.where(rng.random((60, 128)) < 0.7, -1, 1).astype(np.int16)
    one = np.zeros(128, dtype=np.int16)
    model = ContextModel(np.zeros(60, dtype=np.int16), one, one, 1, table)
    codes = check_same("rans_encode", q, model, 1)
    np.testing.assert_array_equal(check_same("rans_decode", codes, model, 128), q)


def test_symbols_beyond_the_reach_are_coded_as_the_nearest():
    model, q = drawn(2, 4, 50, 50, reach=2, skip=0)
    largest = np.where(q == 2, 32767, np.where(q == -2, -32768, q)).astype(np.int16)
    assert check_same("rans_encode", largest, model, 1) == check_same("rans_encode", q, model, 1)
    alike(check_same("histogram", largest, model), check_same("histogram", q, model))


@given(st.integers(0, 99), shapes)
def test_the_histogram_counts_what_is_coded(seed, shape):
    model, q = drawn(seed, *shape)
    found = check_same("histogram", q, model)
    expected = np.zeros_like(found)
    for row in np.flatnonzero(model.row_scores != SKIPPED_ROW):
        for symbol, table in zip(q[row], tables_of(model, row), strict=False):
            expected[table, symbol + model.reach] += 1
    np.testing.assert_array_equal(found, expected)


@BOTH
def test_a_damaged_code_is_refused(kernels):
    model, q = drawn(5, 20, 64, 60)
    (code,) = kernels.rans_encode(q, model, 1)
    for damaged in [
        b"",
        code[: 4 * LANES - 1],
        code[: 4 * LANES],
        code[:-1],
        code[:-2],
        code + b"\0",
        code + b"\0\0",
        bytes(4) + code[4:],
    ]:
        with pytest.raises(PacketError):
            kernels.rans_decode([damaged], model, 64)
    with pytest.raises(PacketError, match="no code"):
        kernels.rans_decode([], model, 64)
    with pytest.raises(PacketError):
        kernels.rans_decode([code, code], model, 64)


@given(st.integers(0, 9), st.binary(max_size=80), st.integers(0, 500), st.integers(0, 60))
def test_any_bytes_decode_alike_or_are_refused_alike(seed, junk, place, cut):
    model, q = drawn(seed, 9, 40, 33)
    code = bytearray(FORMS[0].rans_encode(q, model, 1)[0])
    code[place : place + cut] = junk
    outcomes = []
    for form in FORMS:
        try:
            outcomes.append(form.rans_decode([bytes(code)], model, 40).tolist())
        except PacketError:
            outcomes.append(None)
    assert outcomes.count(outcomes[0]) == len(FORMS)


@BOTH
def test_a_table_that_does_not_sum_up_is_refused_where_it_is_needed(kernels):
    model, q = drawn(3, 6, 40, 40)
    codes = kernels.rans_encode(q, model, 1)
    used = tables_of(model, np.flatnonzero(model.row_scores != SKIPPED_ROW)[0])[0]
    for wrong in (0, 1, 65535):
        frequencies = model.frequencies.copy()
        frequencies[used] = wrong
        with pytest.raises(PacketError, match="does not sum to 4096"):
            kernels.rans_decode(codes, replace(model, frequencies=frequencies), 40)
    extra = np.vstack([model.frequencies, np.zeros_like(model.frequencies[:1])])
    decoded = kernels.rans_decode(codes, replace(model, frequencies=extra), 40)
    np.testing.assert_array_equal(decoded, q)


@BOTH
def test_a_model_that_leads_outside_its_tables_is_refused(kernels):
    model, q = drawn(3, 6, 40, 40)
    for wrong in (
        replace(model, classes=0),
        replace(model, classes=model.frequencies.shape[0] + 1),
        replace(model, column_tables=model.column_tables - np.int16(1)),
        replace(model, column_tables=model.column_tables + np.int16(99)),
        replace(model, frequencies=model.frequencies[:, 1:]),
    ):
        with pytest.raises(PacketError):
            kernels.histogram(q, wrong)
        with pytest.raises(PacketError):
            kernels.rans_encode(q, wrong, 1)
        with pytest.raises(PacketError):
            kernels.rans_decode([bytes(200)], wrong, 40)
    with pytest.raises(PacketError, match="a model of 6 rows"):
        kernels.rans_decode([bytes(200)], model, 39)
