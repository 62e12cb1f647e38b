"""Golomb-Rice gaps, against a decoder that reads bit by bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.codec.entropy import GolombCode, decode_positions, encode_positions
from cutlayer.errors import PacketError


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
