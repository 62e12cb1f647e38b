"""A few hundred symbols by static tables, in plain Python: rANS with one state.

The code is two bytes and some bits longer than the symbols' information; the kernels' rANS is fast
but 100 bytes longer. State in [2^16, 2^32), 16-bit words, 12-bit frequencies. The code: the final
state (u32, little endian), then the words in the decoder's order. Knows nothing of what it codes.

Source: Duda, "Asymmetric numeral systems" (2013), arXiv:1311.2540.
"""

from bisect import bisect_right
from itertools import accumulate

import numpy as np
from jaxtyping import Int64

from cutlayer.codec.kernels.kernels import FREQUENCY_BITS, FREQUENCY_SUM
from cutlayer.errors import PacketError

_START = 1 << 16
_FULL = 32 - FREQUENCY_BITS
_SLOT = FREQUENCY_SUM - 1


class ShortEncoder:
    """Takes series of symbols, the last one first; `to_bytes` ends the code."""

    def __init__(self) -> None:
        self._state = _START
        self._words: list[int] = []

    def put(self, symbols: list[int], table: list[int]) -> None:
        """One series, by a table of sum 4096 in which each of its symbols occurs."""
        starts = list(accumulate(table, initial=0))
        state, words = self._state, self._words
        for symbol in reversed(symbols):
            frequency = table[symbol]
            if state >= frequency << _FULL:
                words.append(state & 0xFFFF)
                state >>= 16
            # x <- (x // f) 2^12 + x % f + start
            state += state // frequency * (FREQUENCY_SUM - frequency) + starts[symbol]
        self._state = state

    def to_bytes(self) -> bytes:
        """The code of all series; empty if there is nothing to say."""
        if self._state == _START and not self._words:
            return b""
        words = np.array(self._words[::-1], dtype="<u2")
        return self._state.to_bytes(4, "little") + words.tobytes()


class ShortDecoder:
    """`ShortEncoder` undone: gives the series, the first one first."""

    def __init__(self, code: bytes) -> None:
        """Raises PacketError: a code of no whole words."""
        if not code:
            code = _START.to_bytes(4, "little")
        if len(code) < 4 or len(code) % 2:
            raise PacketError(f"scores: {len(code)} bytes, expected 4 and an even number more")
        self._state = int.from_bytes(code[:4], "little")
        words: list[int] = np.frombuffer(code[4:], dtype="<u2").tolist()
        self._words = words[::-1]

    def get(self, count: int, table: list[int]) -> Int64[np.ndarray, " symbol"]:
        """The next `count` symbols. Raises PacketError: the code ends before."""
        starts = list(accumulate(table, initial=0))
        state, words = self._state, self._words
        symbols = []
        for _ in range(count):
            slot = state & _SLOT
            symbol = bisect_right(starts, slot) - 1
            symbols.append(symbol)
            state = table[symbol] * (state >> FREQUENCY_BITS) + slot - starts[symbol]
            if state < _START:
                if not words:
                    raise PacketError("scores: the code ends before the last of them")
                state = state << 16 | words.pop()
        self._state = state
        return np.array(symbols, dtype=np.int64)

    def finish(self) -> None:
        """Raises PacketError unless all of the code was read and was a code."""
        if self._words or self._state != _START:
            raise PacketError("scores: the code goes on after the last of them or is damaged")
