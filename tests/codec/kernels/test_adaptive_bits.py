"""The adaptive range coder: bits come back, and cost what learning them must."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.adaptive import learned_bits
from cutlayer.codec.kernels.adaptive_bits import BitReader, BitWriter, Number, contexts

numbers = st.one_of(st.integers(-3, 3), st.integers(-100, 100), st.integers(-(2**30), 2**30))


def code_of(bits):
    writer = BitWriter()
    (context,) = contexts(1)
    writer.put([(bit, context) for bit in bits])
    return writer.to_bytes()


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), max_size=300))
def test_bits_come_back(pairs):
    writer, both = BitWriter(), contexts(4)
    writer.put([(bit, both[which]) for bit, which in pairs])
    code = writer.to_bytes()
    reader, both = BitReader(code), contexts(4)
    assert [reader.ones([both[which]]) for _, which in pairs] == [bit for bit, _ in pairs]
    assert not reader.left
    assert not code.endswith(b"\0")


@given(st.lists(numbers, max_size=60), st.integers(0, 9))
def test_numbers_come_back(values, unary):
    writer, number = BitWriter(), Number(unary)
    for value in values:
        number.put_signed(value, writer)
    reader, number = BitReader(writer.to_bytes()), Number(unary)
    assert [number.get_signed(reader) for _ in values] == values


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 1.0])
def test_bits_cost_what_learning_them_must(share):
    bits = (np.random.default_rng(0).random(3000) < share).astype(int).tolist()
    # KT's length, the end of the code (2 bytes), and a loss of 2^-23 a bit by rounding the range
    ideal = learned_bits([bits.count(0), bits.count(1)])
    assert ideal / 8 <= len(code_of(bits)) + 1 <= ideal / 8 + 3


def test_a_carry_runs_through_all_bytes():
    # improbable bits move the low end of the range far, so that 255s before it turn to zeros
    rng = np.random.default_rng(1)
    for _ in range(300):
        writer, odds = BitWriter(), [[1, 2000], [2000, 1]]
        bits = (rng.random(60) < 0.9).astype(int).tolist()
        writer.put([(bit, odds[place % 2]) for place, bit in enumerate(bits)])
        reader, odds = BitReader(writer.to_bytes()), [[1, 2000], [2000, 1]]
        assert [reader.ones([odds[place % 2]]) for place in range(60)] == bits


def test_bytes_that_are_not_read_are_counted():
    assert BitReader(bytes(9)).left == 5
    assert BitReader(bytes(2)).left == 0


@given(st.binary(max_size=30))
def test_any_bytes_are_numbers(code):
    reader, number = BitReader(code), Number(3)
    assert all(abs(number.get_signed(reader)) < 2**31 for _ in range(40))
