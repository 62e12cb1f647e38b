"""Frequency tables of symbols from a few numbers for each class of scores.

A class is described by its hazards: c(j), the probability that a magnitude that is at least j is
larger than j. Magnitudes that are rare share one hazard, see `EDGES`. A hazard is one of as many
values as the number of symbols it will serve is worth (about its square root: each then costs half
a bit in precision), evenly spread on a scale on which all are equally hard to tell apart, and is
written as its difference from the class before.

Signs: a column's skew is one of `SKEWS` levels, either way; with each level goes one probability.
All arithmetic that the decoder repeats is on integers.
"""

from collections.abc import Callable
from math import asin, isqrt, log2, sin

import numpy as np
from jaxtyping import Int64, UInt16

from cutlayer.codec.entropy.adaptive_bits import BitReader, BitWriter, Number
from cutlayer.codec.kernels.kernels import FREQUENCY_BITS, FREQUENCY_SUM
from cutlayer.errors import PacketError

# the first magnitude of each group that shares a hazard
EDGES = (0, 1, 2, 3, 4, 5, 6, 8, 12, 18, 30)
LARGEST_REACH = 62
LARGEST_CLASSES = 64
# probabilities in 24 bits, places on the hazard's scale in 16
_ONE = 1 << 24
_PLACE = 1 << 16
_FINEST = 1024
SIGN_ONE = 256
# kinds of differences that are told apart: those of the first hazards, of all others
_NUMBERS = 8
_MOST_SYMBOLS = 1 << 40

Hazards = Int64[np.ndarray, "kind level"]
# (class, group, its first magnitude, last + 1, cells, predicted cell) -> cell
Chooser = Callable[[int, int, int, int, int, int], int]


def _groups(reach: int, edges: tuple[int, ...]) -> list[tuple[int, int]]:
    """First magnitude and last + 1 of each group of magnitudes below `reach`."""
    firsts = [edge for edge in edges if edge < reach]
    return list(zip(firsts, [*firsts[1:], reach], strict=True))


def hazard(cell: int, cells: int) -> int:
    """The probability [2^-24] of a cell on the scale: x^2 (3 - 2 x) at x = cell / cells, which is
    within 1 % of sin^2(pi x / 2), on which equal steps are equally hard to tell apart."""
    if cell in (0, cells):
        return _ONE if cell else 0
    place = cell * _PLACE // cells
    return max(1, place * place * (3 * _PLACE - 2 * place) >> 24)


def write_hazards(
    counts: Int64[np.ndarray, "kind magnitude"],
    sizes: list[int],
    edges: tuple[int, ...],
    writer: BitWriter,
) -> Hazards:
    """Writes hazards that fit `counts` (how often each class codes each magnitude 0..reach) and
    returns them as the reader will have them. `sizes`: how many symbols each class codes."""
    reach = counts.shape[1] - 1
    numbers = [Number(8) for _ in range(_NUMBERS)]
    # how many magnitudes are at least j, in Python's integers since they are read one by one
    above: list[list[int]] = counts[:, ::-1].cumsum(1)[:, ::-1].tolist()

    def choose(kind: int, group: int, first: int, last: int, cells: int, predicted: int) -> int:
        stay = above[kind][first] - above[kind][last]
        go = sum(above[kind][first + 1 : last + 1])
        cell = best_cell(stay, go, cells, predicted)
        numbers[min(group, _NUMBERS - 1)].put_signed(cell - predicted, writer)
        return cell

    return _walk(sizes, reach, edges, choose)


def read_hazards(
    sizes: list[int], reach: int, edges: tuple[int, ...], reader: BitReader
) -> Hazards:
    """The hazards of `write_hazards`. Raises PacketError: one that is no probability."""
    numbers = [Number(8) for _ in range(_NUMBERS)]

    def choose(_kind: int, group: int, _first: int, _last: int, cells: int, predicted: int) -> int:
        cell = predicted + numbers[min(group, _NUMBERS - 1)].get_signed(reader)
        if not 0 <= cell <= cells:
            raise PacketError(f"tables: hazard {cell} of {cells}")
        return cell

    return _walk(sizes, reach, edges, choose)


def _walk(sizes: list[int], reach: int, edges: tuple[int, ...], choose: Chooser) -> Hazards:
    hazards = np.zeros((len(sizes), reach), dtype=np.int64)
    # the place of each group's hazard in the class before
    places = [_PLACE // 2] * len(edges)
    for kind, size in enumerate(sizes):
        left = min(size, _MOST_SYMBOLS)
        for group, (first, last) in enumerate(_groups(reach, edges)):
            if not left:
                break
            cells = min(2 + isqrt(left), _FINEST)
            predicted = (places[group] * cells + _PLACE // 2) // _PLACE
            cell = choose(kind, group, first, last, cells, predicted)
            places[group] = cell * _PLACE // cells
            value = hazard(cell, cells)
            hazards[kind, first:last] = value
            for _ in range(last - first):
                left = -(-left * value // _ONE)
    return hazards


def best_cell(stay: int, go: int, cells: int, predicted: int) -> int:
    """The cell of the hazard go / (stay + go); the predicted one where that costs little."""
    if not go or not stay:
        return cells if go else 0
    share = go / (stay + go)
    place = 0.5 - sin(asin(1 - 2 * share) / 3)
    cell = min(max(round(place * cells), 1), cells - 1)
    if cell != predicted and 0 < predicted < cells:
        lost_bits = _bits(stay, go, hazard(predicted, cells)) - _bits(stay, go, hazard(cell, cells))
        if lost_bits < 1.5:
            return predicted
    return cell


def _bits(stay: int, go: int, value: int) -> float:
    return -go * log2(value / _ONE) - stay * log2(1 - value / _ONE)


def magnitudes(hazards: Hazards) -> Int64[np.ndarray, "kind magnitude"]:
    """The probability [2^-24, about] of each magnitude 0..reach; zero only where it cannot occur,
    if all before it went on for certain or one before it never."""
    kinds, reach = hazards.shape
    shares = np.zeros((kinds, reach + 1), dtype=np.int64)
    left = np.full(kinds, _ONE, dtype=np.int64)
    for level in range(reach):
        value = hazards[:, level]
        on = left * value >> 24
        on = np.where((left > 0) & (value > 0), np.maximum(on, 1), 0)
        shares[:, level] = np.where((left > 0) & (value < _ONE), np.maximum(left - on, 1), 0)
        left = on
    shares[:, reach] = left
    return shares


def majority(more: int, less: int) -> int:
    """The share [1/256] of the larger part; 256 only if it is all."""
    if not less:
        return SIGN_ONE
    share = (SIGN_ONE * more + (more + less) // 2) // (more + less)
    return min(max(share, SIGN_ONE // 2), SIGN_ONE - 1)


def frequencies(
    shares: Int64[np.ndarray, "kind magnitude"], majorities: list[int]
) -> UInt16[np.ndarray, "table symbol"]:
    """All tables: first the one of columns that are all zero; then for each majority m [1/256] a
    set of classes with m of the non-zero symbols positive, and (but for the first, whose m is a
    half) a set with m of them negative."""
    pairs = [(m, SIGN_ONE - m) for m in majorities]
    positives = [pairs[0][0], *(part for pair in pairs[1:] for part in pair)]
    reach = shares.shape[1] - 1
    weights = np.empty((len(positives), len(shares), 2 * reach + 1), dtype=np.int64)
    for part, positive in enumerate(positives):
        weights[part, :, reach] = shares[:, 0] * SIGN_ONE
        weights[part, :, reach + 1 :] = shares[:, 1:] * positive
        weights[part, :, :reach] = shares[:, :0:-1] * (SIGN_ONE - positive)
    tables = twelve_bits(weights.reshape(-1, 2 * reach + 1))
    dead = np.zeros((1, 2 * reach + 1), dtype=np.uint16)
    dead[0, reach] = FREQUENCY_SUM
    return np.concatenate([dead, tables])


def twelve_bits(weights: Int64[np.ndarray, "table symbol"]) -> UInt16[np.ndarray, "table symbol"]:
    """Frequencies of sum 4096 in proportion to weights of sum 2^32, about; none is lost. What
    rounding leaves or lacks goes to or comes from the largest."""
    possible = weights > 0
    half = 1 << (31 - FREQUENCY_BITS)
    scaled = np.maximum((weights + half) >> (32 - FREQUENCY_BITS), possible)
    tables = np.arange(len(weights))
    # the largest has at least 4096 / 125, those raised to 1 are at most 124: a few rounds suffice
    while (missing := FREQUENCY_SUM - scaled.sum(1)).any():
        largest = scaled.argmax(1)
        room = scaled[tables, largest] // 2
        scaled[tables, largest] += np.maximum(missing, -room)
    table: UInt16[np.ndarray, "table symbol"] = scaled.astype(np.uint16)
    return table


def class_sizes(
    row_scores: Int64[np.ndarray, " row"], column_scores: Int64[np.ndarray, " column"], classes: int
) -> list[int]:
    """How many symbols each class codes, for scores of rows and columns that are coded."""
    if not row_scores.size or not column_scores.size:
        return [0] * classes
    low_row, low_column = int(row_scores.min()), int(column_scores.min())
    rows = np.bincount(row_scores - low_row)
    columns = np.bincount(column_scores - low_column)
    sizes = np.convolve(rows, columns)
    kinds = np.clip(np.arange(sizes.size) + low_row + low_column, 0, classes - 1)
    totals = np.zeros(classes, dtype=np.int64)
    np.add.at(totals, kinds, sizes)
    return [int(size) for size in totals]
