"""What symbols beyond the tables' reach are more than it: Rice-coded, in the order of the symbols.

Section: a byte p, the unary parts of all excesses, their low p bits. Knows nothing of the symbols.
"""

import numpy as np
from jaxtyping import Int64

from cutlayer.codec.entropy import golomb
from cutlayer.errors import PacketError


def write_excesses(excesses: Int64[np.ndarray, " excess"]) -> bytes:
    """The section for excesses >= 0; empty where there is none."""
    if not excesses.size:
        return b""
    code = golomb.encode_gaps(excesses)
    return bytes((code.parameter,)) + code.quotients + code.remainders


def read_excesses(section: bytes, count: int, largest: int) -> Int64[np.ndarray, " excess"]:
    """The `count` excesses. Raises PacketError: a section of no such, or one beyond `largest`."""
    if not count:
        if section:
            raise PacketError(f"escapes: {len(section)} bytes, expected none")
        return np.zeros(0, dtype=np.int64)
    if not section:
        raise PacketError(f"escapes: none, expected {count}")
    parameter = min(section[0], 64)
    split = len(section) - (count * parameter + 7) // 8
    code = golomb.GolombCode(parameter, section[1 : max(split, 1)], section[max(split, 1) :])
    excesses = golomb.decode_gaps(code, count, count * (largest + 1))
    if int(excesses.max()) > largest:
        raise PacketError(f"escapes: {excesses.max()}, expected at most {largest}")
    return excesses
