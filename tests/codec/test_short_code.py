"""rANS of one state."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.codec.kernels.kernels import FREQUENCY_SUM
from cutlayer.codec.tables import ShortDecoder, ShortEncoder
from cutlayer.errors import PacketError

series = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=50), max_size=4)


def table_of(symbols):
    counts = np.bincount(symbols, minlength=10)
    table = np.maximum(counts * FREQUENCY_SUM // max(len(symbols), 1), counts > 0)
    table[np.argmax(table)] += FREQUENCY_SUM - table.sum()
    return table.tolist()


@given(series)
def test_several_series_come_back(several):
    encoder = ShortEncoder()
    for symbols in reversed(several):
        encoder.put(symbols, table_of(symbols))
    decoder = ShortDecoder(encoder.to_bytes())
    for symbols in several:
        assert decoder.get(len(symbols), table_of(symbols)).tolist() == symbols
    decoder.finish()


def test_it_costs_the_entropy_and_three_bytes():
    symbols = np.random.default_rng(0).binomial(9, 0.3, 2000).tolist()
    table = table_of(symbols)
    encoder = ShortEncoder()
    encoder.put(symbols, table)
    ideal_bytes = sum(np.log2(4096 / table[symbol]) for symbol in symbols) / 8
    # the state starts with 16 bits that say nothing and ends with up to 15 more; the states are at
    # least 16 times the frequencies' sum, so that rounding costs under 2^-4 / 2 of a bit at worst
    assert ideal_bytes + 2 - 1 <= len(encoder.to_bytes()) <= 1.005 * ideal_bytes + 4


def test_certain_symbols_take_no_bytes():
    encoder = ShortEncoder()
    encoder.put([1] * 1000, [0, 4096])
    assert encoder.to_bytes() == b""
    decoder = ShortDecoder(b"")
    assert decoder.get(1000, [0, 4096]).tolist() == [1] * 1000
    decoder.finish()


@pytest.mark.parametrize("code", [b"\x01", b"\0\0\0", b"\0\0\1\0\0"])
def test_a_code_of_no_whole_words_is_refused(code):
    with pytest.raises(PacketError, match=f"{len(code)} bytes"):
        ShortDecoder(code)


def test_a_code_too_short_or_too_long_is_refused():
    with pytest.raises(PacketError, match="ends before"):
        ShortDecoder(b"").get(5, [2048, 2048])
    decoder = ShortDecoder(b"\0\0\1\0\5\5")
    with pytest.raises(PacketError, match="goes on"):
        decoder.finish()
