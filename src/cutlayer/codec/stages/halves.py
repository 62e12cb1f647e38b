"""Scales in two bytes: the upper half of a float32 (8 bits of exponent, 7 of fraction).

Precise to 1 part in 128 towards the side asked for, with float32's range.
"""

import numpy as np
from jaxtyping import Float32

LARGEST_FINITE = np.uint64(0x7F7F)


def to_bytes(values: Float32[np.ndarray, " count"], *, up: bool) -> bytes:
    """Values from 0 on, each rounded down, or up where `up`. What rounds up to infinity stays at
    the largest finite half."""
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = (bits + (0xFFFF if up else 0)) >> np.uint64(16)
    return bytes(np.minimum(rounded, LARGEST_FINITE).astype("<u2"))


def nearest_to_bytes(values: Float32[np.ndarray, " count"]) -> bytes:
    """Values from 0 on, each rounded to the nearest half, ties away from zero."""
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = (bits + np.uint64(0x8000)) >> np.uint64(16)
    return bytes(np.minimum(rounded, LARGEST_FINITE).astype("<u2"))


def from_bytes(data: bytes) -> Float32[np.ndarray, " count"]:
    """The values; an even number of bytes."""
    upper = np.frombuffer(data, dtype="<u2").astype(np.uint32) << np.uint32(16)
    return upper.view(np.float32)
