"""A table of symbol frequencies in 12 bits: how often, of 4096, the coder expects each symbol.

Knows nothing of the coder that uses it. Everything is integer arithmetic, so that the same counts
give the same table anywhere.
"""

from itertools import groupby

import numpy as np
from jaxtyping import Int, Int64

from cutlayer.errors import PacketError

FREQUENCY_BITS = 12
FREQUENCY_SUM = 1 << FREQUENCY_BITS


def normalised(histogram: Int[np.ndarray, " symbol"]) -> Int64[np.ndarray, " symbol"]:
    """Frequencies of sum 4096 in proportion to a histogram that is not all zero.

    A symbol that occurs has at least 1, so the rarest are raised to it. Of the others, the largest
    remainders round up; if the raised ones took too much, the largest frequencies give it back.
    """
    total = int(histogram.sum())
    scaled = histogram.astype(np.int64) * FREQUENCY_SUM
    frequencies = np.maximum(scaled // total, (histogram > 0).astype(np.int64))
    missing = FREQUENCY_SUM - int(frequencies.sum())
    if missing > 0:
        remainders = np.where(scaled < total, 0, scaled % total)
        by_remainder = np.argsort(-remainders, kind="stable")
        frequencies[by_remainder[:missing]] += 1
    for _ in range(-missing):
        frequencies[np.argmax(frequencies)] -= 1
    return frequencies


def table_to_bytes(frequencies: Int[np.ndarray, " symbol"]) -> bytes:
    """Each frequency in one byte below 128, else in two (7 bits and a flag, then the rest).

    A run of zeros is a zero byte and its length less one; at the end it is left out, since the sum
    tells that the table is complete.
    """
    table = bytearray()
    for frequency, run in groupby(np.trim_zeros(frequencies, "b").tolist()):
        count = len(list(run))
        if frequency == 0:
            table += bytes((0, count - 1))
        elif frequency < 128:
            table += bytes((frequency,)) * count
        else:
            table += bytes((128 | frequency & 127, frequency >> 7)) * count
    return bytes(table)


def table_from_bytes(table: bytes, symbols: int) -> Int64[np.ndarray, " symbol"]:
    """`table_to_bytes` undone for an alphabet of `symbols`.

    Raises PacketError: too many symbols, or a sum other than 4096.
    """
    if len(table) > 2 * symbols:
        raise PacketError(f"frequency table: {len(table)} bytes for {symbols} symbols")
    frequencies: list[int] = []
    octets = iter(table)
    for octet in octets:
        if octet == 0:
            frequencies += [0] * (next(octets, 0) + 1)
        else:
            high = next(octets, 0) if octet & 128 else 0
            frequencies.append((octet & 127) | high << 7)
    if len(frequencies) > symbols or sum(frequencies) != FREQUENCY_SUM:
        raise PacketError(
            f"frequency table: {len(frequencies)} symbols of sum {sum(frequencies)}, "
            f"expected at most {symbols} of sum {FREQUENCY_SUM}"
        )
    padding = [0] * (symbols - len(frequencies))
    return np.array(frequencies + padding, dtype=np.int64)
