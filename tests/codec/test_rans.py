"""The entropy coder, against a decoder in plain integers and against the entropy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.codec import rans
from cutlayer.codec.frequencies import FREQUENCY_SUM, normalised
from cutlayer.errors import PacketError


def drawn(count, symbols, seed=0):
    """`count` symbols of geometric frequencies, and their table."""
    rng = np.random.default_rng(seed)
    drawn_symbols = np.minimum(rng.geometric(0.4, size=count) - 1, symbols - 1).astype(np.uint8)
    return drawn_symbols, normalised(np.bincount(drawn_symbols, minlength=symbols))


def decode_one_by_one(code, count, frequencies):
    """The definition: lane after lane, one symbol at a time, in Python's integers."""
    lanes = rans.lane_count(count)
    states = [int.from_bytes(code[4 * i : 4 * i + 4], "little") for i in range(lanes)]
    words = iter(code[at] | code[at + 1] << 8 for at in range(4 * lanes, len(code), 2))
    symbols = []
    for position in range(count):
        state = states[position % lanes]
        slot = state % FREQUENCY_SUM
        symbol, start = 0, 0
        while start + frequencies[symbol] <= slot:
            start += frequencies[symbol]
            symbol += 1
        state = frequencies[symbol] * (state >> 12) + slot - start
        if state < 2**16:
            state = state << 16 | next(words)
        states[position % lanes] = state
        symbols.append(symbol)
    return symbols, states, list(words)


@pytest.mark.parametrize("count", [1, 5, 511, 1023, 1024, 1025, 2500, 5000])
def test_the_code_is_what_its_definition_says(count):
    symbols, frequencies = drawn(count, 9)
    code = rans.encode(symbols, frequencies)
    found, states, rest = decode_one_by_one(code, count, frequencies.tolist())
    assert found == symbols.tolist()
    assert set(states) == {2**16}
    assert rest == []


@given(st.integers(1, 6000), st.integers(1, 256), st.integers(0, 9))
def test_symbols_come_back(count, alphabet, seed):
    symbols, frequencies = drawn(count, alphabet, seed)
    code = rans.encode(symbols, frequencies)
    np.testing.assert_array_equal(rans.decode(code, count, frequencies), symbols)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=300))
def test_any_bytes_come_back(values):
    symbols = np.array(values, dtype=np.uint8)
    frequencies = normalised(np.bincount(symbols, minlength=256))
    code = rans.encode(symbols, frequencies)
    assert rans.decode(code, symbols.size, frequencies).tolist() == values


def test_a_single_symbol_takes_no_words():
    symbols = np.full(5000, 3, dtype=np.uint8)
    frequencies = normalised(np.bincount(symbols))
    code = rans.encode(symbols, frequencies)
    assert len(code) == 4 * rans.lane_count(5000)
    np.testing.assert_array_equal(rans.decode(code, 5000, frequencies), symbols)


@pytest.mark.parametrize(("count", "alphabet"), [(20_000, 8), (100_000, 32), (300_000, 256)])
def test_the_length_is_the_cross_entropy_and_the_states(count, alphabet):
    symbols, frequencies = drawn(count, alphabet)
    cost_bits = -np.log2(frequencies[symbols] / FREQUENCY_SUM).sum()
    spent_bits = 8 * len(rans.encode(symbols, frequencies))
    # a state ends between 2^16 and 2^32 and takes 32 bits, having started with 16: 16 to 32 bits
    # beyond its content. A division of a state of 2^16 or more by a frequency of at most 2^12
    # loses at most 2^-4 of a bit, on average far less: 0.1 % is allowed.
    lanes = rans.lane_count(count)
    assert cost_bits + 16 * lanes - 1 <= spent_bits <= 1.001 * cost_bits + 32 * lanes


@given(st.integers(0, 10**8))
def test_lanes_are_a_power_of_two_and_cost_at_most_a_twentieth_of_a_bit(count):
    lanes = rans.lane_count(count)
    assert lanes & (lanes - 1) == 0
    assert 1 <= lanes <= rans.MAX_LANES
    assert lanes == 1 or 24 * lanes / count <= 0.05
    # and few enough steps: a decoder takes about 10 µs for each
    assert lanes == rans.MAX_LANES or count / lanes < 2 * rans.STEPS


def test_a_code_that_is_damaged_is_refused():
    symbols, frequencies = drawn(3000, 9)
    code = rans.encode(symbols, frequencies)
    assert rans.lane_count(3000) == 4
    for damaged, message in [
        (code[:15], "15 bytes of code for 4 lanes"),
        (code[:-1], "bytes of code"),
        (code[:-2], "ends before symbol"),
        (code + b"\x00\x00", "does not end where the symbols do"),
        (b"\x00\x00\x00\x00" + code[4:], "a state below 65536"),
    ]:
        with pytest.raises(PacketError, match=message):
            rans.decode(damaged, 3000, frequencies)


def test_every_change_of_a_byte_is_found_by_the_final_states_or_decodes_to_symbols():
    symbols, frequencies = drawn(300, 9)
    code = rans.encode(symbols, frequencies)
    found = 0
    for place in range(len(code)):
        damaged = bytearray(code)
        damaged[place] ^= 0x55
        try:
            assert rans.decode(bytes(damaged), 300, frequencies).max() < 9
        except PacketError:
            found += 1
    # one lane's state must come back to 2^16: a chance of about 2^-16 to miss
    assert found >= len(code) - 1
