"""A table of symbol frequencies in 12 bits: how often, of 4096, the coder expects each symbol.

Knows nothing of the coder that uses it. Everything is integer arithmetic, so that the same counts
give the same table anywhere.
"""

import numpy as np
from jaxtyping import Int, Int64

from cutlayer.errors import PacketError

FREQUENCY_BITS = 12
FREQUENCY_SUM = 1 << FREQUENCY_BITS


def normalised(histogram: Int[np.ndarray, " symbol"]) -> Int64[np.ndarray, " symbol"]:
    """Frequencies of sum 4096 in proportion to a histogram that is not all zero.

    A symbol that occurs has at least 1. Largest remainders round up.
    """
    total = int(histogram.sum())
    scaled = histogram.astype(np.int64) * FREQUENCY_SUM
    frequencies = np.maximum(scaled // total, (histogram > 0).astype(np.int64))
    missing = FREQUENCY_SUM - int(frequencies.sum())
    if missing > 0:
        by_remainder = np.argsort(-(scaled % total), kind="stable")
        frequencies[by_remainder[:missing]] += 1
    for _ in range(-missing):
        frequencies[np.argmax(frequencies)] -= 1
    return frequencies


def table_to_bytes(frequencies: Int[np.ndarray, " symbol"]) -> bytes:
    """Each frequency in one byte below 128, else in two (7 bits and a flag, then the rest).

    Zeros after the last symbol that occurs are left out: the sum tells that the table is complete.
    """
    table = bytearray()
    for frequency in np.trim_zeros(frequencies, "b").tolist():
        if frequency < 128:
            table.append(frequency)
        else:
            table += bytes((128 | frequency & 127, frequency >> 7))
    return bytes(table)


def table_from_bytes(table: bytes, symbols: int) -> Int64[np.ndarray, " symbol"]:
    """`table_to_bytes` undone for an alphabet of `symbols`. Raises PacketError: not such a table."""
    if len(table) > 2 * symbols:
        raise PacketError(f"frequency table: {len(table)} bytes for {symbols} symbols")
    frequencies: list[int] = []
    octets = iter(table)
    for octet in octets:
        rest = next(octets, 0) if octet & 128 else 0
        frequencies.append((octet & 127) | rest << 7)
    if len(frequencies) > symbols or sum(frequencies) != FREQUENCY_SUM:
        raise PacketError(
            f"frequency table: {len(frequencies)} symbols of sum {sum(frequencies)}, "
            f"expected at most {symbols} of sum {FREQUENCY_SUM}"
        )
    padding = [0] * (symbols - len(frequencies))
    return np.array(frequencies + padding, dtype=np.int64)
