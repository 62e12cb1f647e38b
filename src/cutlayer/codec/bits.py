"""Bits in bytes, the first bit in the lowest place: flags, and unsigned integers of one width.

Knows nothing of what the bits mean. Bytes that are too few or too many raise PacketError.
"""

import numpy as np
from jaxtyping import Bool, Int

from cutlayer.errors import PacketError


def packed_bytes(count: int, width: int) -> int:
    """The length [bytes] of `count` integers of `width` bits each."""
    return (count * width + 7) // 8


def pack_flags(flags: Bool[np.ndarray, " count"]) -> bytes:
    """One bit per flag."""
    return np.packbits(flags, bitorder="little").tobytes()


def unpack_flags(packed: bytes, count: int, what: str) -> Bool[np.ndarray, " count"]:
    """The first `count` flags of `packed`; `what` names them in the error."""
    _check_length(packed, packed_bytes(count, 1), what)
    octets = np.frombuffer(packed, dtype=np.uint8)
    return np.unpackbits(octets, count=count, bitorder="little").view(np.bool_)


def pack_integers(values: Int[np.ndarray, " count"], width: int) -> bytes:
    """The low `width` bits of each value, lowest first."""
    bits = (values[:, None] >> np.arange(width)) & 1
    return pack_flags(bits.reshape(-1).astype(np.bool_))


def unpack_integers(packed: bytes, count: int, width: int, what: str) -> Int[np.ndarray, " count"]:
    """`pack_integers` undone."""
    bits = unpack_flags(packed, count * width, what).reshape(count, width)
    values = np.zeros(count, dtype=np.int64)
    for place in range(width):
        values |= bits[:, place].astype(np.int64) << place
    return values


def _check_length(packed: bytes, expected: int, what: str) -> None:
    if len(packed) != expected:
        raise PacketError(f"{what}: {len(packed)} bytes, expected {expected}")
