"""Entropy coders: matrices of symbols, sets of positions, bits in bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cutlayer.codec.entropy import (
    FixedWidth,
    Golomb,
    GolombCode,
    decode_positions,
    encode_positions,
    pack_flags,
    pack_integers,
    packed_bytes,
    unpack_flags,
    unpack_integers,
)
from cutlayer.codec.kernels.native import load_kernels
from cutlayer.codec.kernels.portable import Portable
from cutlayer.codec.two_way import TwoWay
from cutlayer.errors import PacketError
from examples import at_most

CODERS = [FixedWidth(), Golomb(), TwoWay()]
KERNELS = load_kernels()

each_coder = pytest.mark.parametrize("coder", CODERS, ids=lambda coder: coder.name)
shapes = st.tuples(st.integers(0, 12), st.integers(0, 20))
symbol = st.one_of(st.just(0), st.integers(-2, 2), st.integers(-70, 70), st.integers(-32767, 32767))
matrices = shapes.flatmap(
    lambda shape: arrays(np.int16, shape, elements=symbol, fill=st.sampled_from([0, 1, -3]))
)


def heavy_tailed(rows, columns, rng, step=1.0):
    """Dead-zone symbols of values whose scale is a row's times a column's; columns have means."""
    scales = np.exp(rng.normal(size=(rows, 1))) * np.exp(rng.normal(size=columns))
    values = scales * (rng.laplace(size=(rows, columns)) + rng.normal(size=columns))
    limited = np.clip(np.trunc(values / step), -32767, 32767)
    return limited.astype(np.int16)


def round_trip(coder, symbols, kernels=KERNELS):
    sections = coder.encode(symbols, kernels)
    return coder.decode(sections, *symbols.shape, kernels)


@each_coder
@at_most(40)
@given(symbols=matrices)
def test_any_symbols_come_back(coder, symbols):
    np.testing.assert_array_equal(round_trip(coder, symbols), symbols)


@each_coder
@at_most(40)
@given(symbols=matrices)
def test_numpy_and_c_give_the_same_bytes(coder, symbols):
    sections = coder.encode(symbols, Portable())
    assert sections == coder.encode(symbols, KERNELS)
    np.testing.assert_array_equal(coder.decode(sections, *symbols.shape, Portable()), symbols)


@each_coder
@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (1, 1), (40, 50)])
def test_zeros_take_no_bytes(coder, shape):
    zeros = np.zeros(shape, dtype=np.int16)
    assert coder.encode(zeros, KERNELS) == {}
    np.testing.assert_array_equal(round_trip(coder, zeros), zeros)


@each_coder
@pytest.mark.parametrize("value", [1, -1, 2, 62, 63, -64, 8191, 32767, -32767])
@pytest.mark.parametrize("shape", [(1, 1), (3, 100)])
def test_one_value_everywhere_or_once(coder, value, shape):
    everywhere = np.full(shape, value, dtype=np.int16)
    once = np.zeros(shape, dtype=np.int16)
    once[-1, -1] = value
    for symbols in (everywhere, once):
        np.testing.assert_array_equal(round_trip(coder, symbols), symbols)


@each_coder
@pytest.mark.parametrize("shape", [(3000, 3), (3, 5000), (200, 300)])
def test_tall_and_wide_matrices_come_back(coder, shape):
    symbols = heavy_tailed(*shape, np.random.default_rng(1))
    np.testing.assert_array_equal(round_trip(coder, symbols), symbols)


@each_coder
def test_symbols_of_any_layout_in_memory_come_back(coder):
    symbols = heavy_tailed(30, 40, np.random.default_rng(2))
    for view in (symbols.T, symbols[::2, ::3], np.asfortranarray(symbols)):
        np.testing.assert_array_equal(round_trip(coder, view), view)


@each_coder
def test_encoding_leaves_the_symbols_alone(coder):
    symbols = heavy_tailed(30, 40, np.random.default_rng(3))
    before = symbols.copy()
    coder.encode(symbols, KERNELS)
    np.testing.assert_array_equal(symbols, before)


def check_survives(coder, sections, shape):
    """Decoding ends in symbols of the shape or in a PacketError; whether in the former."""
    try:
        symbols = coder.decode(sections, *shape, KERNELS)
    except PacketError:
        return False
    assert symbols.shape == shape
    assert symbols.dtype == np.int16
    return True


@each_coder
@at_most(40)
@given(data=st.data())
def test_damaged_sections_never_do_worse_than_a_packet_error(coder, data):
    rows, columns = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 20)))
    seed = data.draw(st.integers(0, 100))
    sections = coder.encode(heavy_tailed(rows, columns, np.random.default_rng(seed), 0.5), KERNELS)
    for _ in range(data.draw(st.integers(1, 3))):
        if not sections:
            return
        name = data.draw(st.sampled_from(sorted(sections)))
        octets = bytearray(sections[name])
        place = data.draw(st.integers(0, max(len(octets) - 1, 0)))
        length = data.draw(st.integers(0, 3))
        octets[place : place + length] = data.draw(st.binary(max_size=4))
        sections[name] = bytes(octets)
    check_survives(coder, sections, (rows, columns))


@each_coder
@at_most(40)
@given(data=st.data())
def test_random_sections_never_do_worse_than_a_packet_error(coder, data):
    names = sorted(coder.encode(heavy_tailed(20, 30, np.random.default_rng(4)), KERNELS))
    sections = {name: data.draw(st.binary(max_size=40)) for name in names}
    check_survives(coder, sections, (20, 30))


@each_coder
def test_every_truncated_section_is_refused(coder):
    symbols = heavy_tailed(20, 30, np.random.default_rng(5))
    sections = coder.encode(symbols, KERNELS)
    for name, section in sections.items():
        for length in (*range(4), len(section) // 2, len(section) - 1):
            shorter = {**sections, name: section[: min(length, len(section) - 1)]}
            # the adaptive bits of the model may mean other tables when cut; all else is refused
            if check_survives(coder, shorter, symbols.shape):
                assert name == "model"


@each_coder
def test_sections_that_are_too_long_unknown_or_of_another_shape_are_refused(coder):
    symbols = heavy_tailed(20, 30, np.random.default_rng(6))
    sections = coder.encode(symbols, KERNELS)
    for name in sections:
        assert not check_survives(
            coder, {**sections, name: sections[name] + bytes(9)}, symbols.shape
        )
    assert not check_survives(coder, {**sections, "other": b""}, symbols.shape)
    assert not check_survives(coder, sections, (20, 60))
    assert not check_survives(coder, sections, (0, 30))
    assert not check_survives(coder, {"other": b"\0"}, symbols.shape)


def test_fixed_width_takes_as_many_bits_as_the_symbols_ask_for():
    def symbol_bytes(*values):
        symbols = np.tile(np.array(values, dtype=np.int16), (1, 8))
        return len(FixedWidth().encode(symbols, KERNELS)["symbols"]) / len(values)

    assert symbol_bytes(-1, 1) == 1
    assert symbol_bytes(-1, 0, 1) == 2
    assert symbol_bytes(-2, -1, 1, 2) == 2
    assert symbol_bytes(-7, 7) == 4
    assert symbol_bytes(-8, 8) == 4
    assert symbol_bytes(-8, 0) == 5
    assert symbol_bytes(32767, 0) == 16


def test_golomb_takes_the_papers_bits():
    # 20 % kept at random, 8 points: a sign, 3 bits and a gap for each
    rng = np.random.default_rng(7)
    signs = np.where(rng.random((100, 1000)) < 0.5, 1, -1)
    symbols = np.where(rng.random(signs.shape) < 0.2, rng.integers(1, 9, signs.shape) * signs, 0)
    sections = Golomb().encode(symbols.astype(np.int16), KERNELS)
    bits = 8 * sum(map(len, sections.values())) / symbols.size
    # entropy of the places .722, and at most 4 % more for Rice's power of two (see below)
    assert 0.722 + 0.8 - 0.01 < bits < 0.722 * 1.04 + 0.8 + 0.01


@pytest.mark.parametrize(
    ("coder", "changed", "message"),
    [
        (FixedWidth(), {"range": b"\x02"}, "range: 1 bytes, expected 3"),
        (FixedWidth(), {"range": b"\x00\x00\x01"}, "range: largest magnitude 0"),
        (FixedWidth(), {"range": b"\x02\x00\x02"}, "range: .* zero 2"),
        (FixedWidth(), {"range": b"\x02\x00\x01", "symbols": b"\xff\xff"}, "beyond the largest"),
        (Golomb(), {"counts": bytes(11)}, "counts: 0 of 4 symbols"),
        (Golomb(), {"counts": b"\x05" + bytes(7) + b"\x01\0\0"}, "counts: 5 of 4 symbols"),
        (Golomb(), {"signs": b""}, "signs: 0 bytes, expected 1"),
        (Golomb(), {"levels": b"\x03"}, "levels: 4, expected at most 3"),
        (TwoWay(), {"model": b""}, "skews|scores|model|code|tables"),
        (TwoWay(), {"code": b""}, "code"),
    ],
)
def test_what_is_wrong_is_said(coder, changed, message):
    symbols = np.array([[0, 3], [0, 0]], dtype=np.int16)
    sections = {**coder.encode(symbols, KERNELS), **changed}
    with pytest.raises(PacketError, match=message):
        coder.decode(sections, 2, 2, KERNELS)


def bit_reader(data):
    return ((octet >> place) & 1 for octet in data for place in range(8))


def read_one_by_one(code, count):
    """The positions of `count` gaps as the definition says: unary quotient, then low bits."""
    unary, low = bit_reader(code.quotients), bit_reader(code.remainders)
    positions, position = [], -1
    for _ in range(count):
        quotient = 0
        while not next(unary):
            quotient += 1
        rest = sum(next(low) << place for place in range(code.parameter))
        position += (quotient << code.parameter) + rest + 1
        positions.append(position)
    return positions


@st.composite
def sets(draw):
    universe = draw(st.integers(0, 200))
    chosen = draw(st.sets(st.integers(0, max(universe - 1, 0)), max_size=universe))
    return universe, np.array(sorted(chosen), dtype=np.int64)


@given(sets())
def test_any_set_comes_back(case):
    universe, positions = case
    code = encode_positions(positions, universe)
    assert decode_positions(code, positions.size, universe).tolist() == positions.tolist()


@given(sets())
def test_the_code_is_what_its_definition_says(case):
    universe, positions = case
    code = encode_positions(positions, universe)
    others = sorted(set(range(universe)) - set(positions.tolist()))
    coded = others if 2 * positions.size > universe else positions.tolist()
    assert read_one_by_one(code, len(coded)) == coded


def cost_bits(gaps, parameter):
    return int((gaps >> parameter).sum()) + gaps.size * (1 + parameter)


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=30))
def test_no_parameter_costs_less(gaps):
    gaps = np.array(gaps)
    positions = np.cumsum(gaps + 1) - 1
    code = encode_positions(positions, 2 * int(positions[-1]) + 2)
    least = min(cost_bits(gaps, parameter) for parameter in range(14))
    assert cost_bits(gaps, code.parameter) == least


@pytest.mark.parametrize("universe", [0, 1, 1000])
def test_everything_and_nothing_cost_nothing(universe):
    for positions in (np.arange(universe), np.empty(0, dtype=np.int64)):
        code = encode_positions(positions, universe)
        assert (code.quotients, code.remainders) == (b"", b"")


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.8, 0.95])
def test_a_random_set_costs_little_more_than_its_entropy(share):
    universe = 100_000
    positions = np.flatnonzero(np.random.default_rng(0).random(universe) < share)
    code = encode_positions(positions, universe)
    p = positions.size / universe
    entropy_bits = -universe * (p * np.log2(p) + (1 - p) * np.log2(1 - p))
    spent_bits = 8 * (len(code.quotients) + len(code.remainders))
    # Rice's divisor is a power of two: at these shares the mean code is up to 4 % above the entropy
    # of geometric gaps; a set drawn at random differs from the mean by under 1 %
    assert 0.99 * entropy_bits < spent_bits < 1.05 * entropy_bits


@pytest.mark.parametrize(
    ("code", "count", "universe", "message"),
    [
        (GolombCode(200, b"\x01", b""), 1, 8, "Golomb parameter 200"),
        (GolombCode(0, b"\x01\x00", b""), 1, 8, "2 bytes of unary code for 8"),
        (GolombCode(0, b"\x07", b""), 2, 8, "3 of them, expected 2"),
        (GolombCode(0, b"", b""), 2, 8, "0 of them, expected 2"),
        (GolombCode(3, b"\x02", b"\x00"), 1, 8, "beyond the last of 8"),
        (GolombCode(2, b"\x02", b"\x03"), 1, 6, "position 7, expected below 6"),
        (GolombCode(2, b"\x02", b""), 1, 8, "low bits of gaps: 0 bytes, expected 1"),
    ],
)
def test_a_code_of_no_such_set_is_refused(code, count, universe, message):
    with pytest.raises(PacketError, match=message):
        decode_positions(code, count, universe)


def test_a_shift_past_64_bits_is_refused():
    unary = np.packbits(np.eye(1, 800, 799, dtype=np.uint8)[0], bitorder="little").tobytes()
    with pytest.raises(PacketError, match="beyond the last"):
        decode_positions(GolombCode(61, unary, bytes(8)), 1, 2**61)


def test_the_first_flag_is_the_lowest_bit():
    flags = np.array([1, 0, 0, 0, 0, 0, 0, 0, 1, 1], dtype=np.bool_)
    assert pack_flags(flags) == b"\x01\x03"


def test_an_integer_starts_with_its_lowest_bit():
    # 3, 1, 2 in three bits each: 2 << 6 | 1 << 3 | 3 = 139, and one bit too many for a byte
    assert pack_integers(np.array([3, 1, 2]), 3) == bytes((139, 0))


@given(st.lists(st.booleans(), max_size=40))
def test_flags_come_back(flags):
    packed = pack_flags(np.array(flags, dtype=np.bool_))
    assert unpack_flags(packed, len(flags), "flags").tolist() == flags


@given(
    st.integers(0, 40).flatmap(
        lambda w: st.tuples(st.just(w), st.lists(st.integers(0, 2**w - 1), max_size=20))
    )
)
def test_integers_come_back_in_as_many_bytes_as_promised(case):
    width, values = case
    packed = pack_integers(np.array(values, dtype=np.int64), width)
    assert len(packed) == packed_bytes(len(values), width)
    assert unpack_integers(packed, len(values), width, "values").tolist() == values


@pytest.mark.parametrize("packed", [b"", b"\x00", b"\x00\x00\x00"])
def test_a_wrong_number_of_bytes_is_refused(packed):
    with pytest.raises(PacketError, match=f"signs: {len(packed)} bytes, expected 2"):
        unpack_flags(packed, 9, "signs")
