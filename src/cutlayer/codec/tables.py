"""Scores of rows and columns, and the frequency tables of the symbols that they lead to.

A table: a class of scores is described by its hazards: c(j), the probability that a magnitude that
is at least j is larger than j. Magnitudes that are rare share one hazard, see `HAZARD_EDGES`. A
hazard is one of as many values as the number of symbols it will serve is worth (about its square
root: each then costs half a bit in precision), evenly spread on a scale on which all are equally
hard to tell apart, and is written as its difference from the class before. Signs: a column's skew
is one of a few levels, either way; with each level goes one probability. All arithmetic that the
decoder repeats is on integers.

A score: how large the symbols of a row or column are, as an integer on a logarithmic scale. If
values are Laplacian with scale `row scale * column scale` and are cut into steps, a mean magnitude
m of their symbols belongs to the scale 1 / ln(1 + 1 / m) [steps]. Its logarithm is the score, so
that a row's and a column's score add up to that of the symbol where they meet. A series of scores
is coded by a table of its own, a short one in plain Python, a long one by the kernels.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from math import asin, isqrt, log2, sin

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt16

from cutlayer.codec.adaptive_bits import BitReader, BitWriter, Number
from cutlayer.codec.kernels.kernels import FREQUENCY_BITS, FREQUENCY_SUM, ContextModel, Kernels
from cutlayer.errors import PacketError

# the first magnitude of each group that shares a hazard
HAZARD_EDGES = (0, 1, 2, 3, 4, 5, 6, 8, 12, 18, 30)
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
# scores are within it, so that two of them add up in int16 many times
LARGEST_SCORE = 1 << 9
# different values of a series
LARGEST_SPREAD = 128
# a longer series goes to the kernels, whose code has some 100 bytes more
_LONG = 2048
# of the short code
_START = 1 << 16
_FULL = 32 - FREQUENCY_BITS
_SLOT = FREQUENCY_SUM - 1

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


def magnitude_shares(hazards: Hazards) -> Int64[np.ndarray, "kind magnitude"]:
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


def majority_share(more: int, less: int) -> int:
    """The share [1/256] of the larger part; 256 only if it is all."""
    if not less:
        return SIGN_ONE
    share = (SIGN_ONE * more + (more + less) // 2) // (more + less)
    return min(max(share, SIGN_ONE // 2), SIGN_ONE - 1)


def frequency_tables(
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


def log_scale(means: Float64[np.ndarray, " any"]) -> Float64[np.ndarray, " any"]:
    """log2 of the Laplacian scale [steps] at which symbols have these mean magnitudes, all > 0."""
    scales: Float64[np.ndarray, " any"] = -np.log2(np.log1p(1 / means))
    return scales


@dataclass(frozen=True, eq=False)
class Scores:
    """Integers, of which some entries have none (0 stands there)."""

    values: Int64[np.ndarray, " value"]
    live: Bool[np.ndarray, " value"]

    @property
    def some(self) -> Int64[np.ndarray, " live"]:
        """The values of the live entries."""
        some: Int64[np.ndarray, " live"] = self.values[self.live]
        return some


@dataclass(frozen=True, eq=False)
class Coding:
    """How the first `count` entries of a series, after which none has a value, become symbols >= 0:
    values or, if `running`, their differences (the first is from 0), less `low`; `spread` is the
    symbol of entries without a value. And their table."""

    count: int
    running: bool
    low: int
    spread: int
    table: UInt16[np.ndarray, " symbol"]

    def model(self) -> ContextModel:
        """For the kernels: symbols around the middle, all in one row."""
        zeros = np.zeros(self.count, dtype=np.int16)
        table = np.zeros((1, self.table.size | 1), dtype=np.uint16)
        table[0, : self.table.size] = self.table
        return ContextModel(zeros[:1], zeros, zeros, 1, table)


class ShortEncoder:
    """A few hundred symbols by static tables, in plain Python: rANS with one state.

    Takes series of symbols, the last one first; `to_bytes` ends the code, which is two bytes and
    some bits longer than the symbols' information; the kernels' rANS is fast but 100 bytes longer.
    State in [2^16, 2^32), 16-bit words, 12-bit frequencies. The code: the final state (u32, little
    endian), then the words in the decoder's order.

    Source: Duda, "Asymmetric numeral systems" (2013), arXiv:1311.2540.
    """

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


def write_scores(named: dict[str, Scores], writer: BitWriter, kernels: Kernels) -> dict[str, bytes]:
    """The sections of several series: a section each for long ones, "scores" for all others."""
    sections: dict[str, bytes] = {}
    short = []
    for name, series in named.items():
        coding, symbols = write_series(series, writer)
        if symbols.size > _LONG:
            model = coding.model()
            shifted = (symbols - model.reach).astype(np.int16)
            sections[name] = kernels.rans_encode(shifted[None], model, 1)[0]
        else:
            short.append((symbols.tolist(), coding.table.tolist()))
    encoder = ShortEncoder()
    for values, table in reversed(short):
        encoder.put(values, table)
    return {"scores": encoder.to_bytes(), **sections}


@dataclass(frozen=True, eq=False)
class SeriesReader:
    """Reads series in the order in which `write_scores` took them."""

    reader: BitReader
    short: ShortDecoder
    kernels: Kernels

    def get(self, entries: int, section: bytes) -> Scores:
        """The next series. `section`: of its name. Raises PacketError: there is no such series."""
        coding = read_coding(entries, self.reader)
        if coding.count > _LONG:
            model = coding.model()
            decoded = self.kernels.rans_decode([section], model, coding.count)[0]
            return series_of(decoded.astype(np.int64) + model.reach, coding, entries)
        if section:
            raise PacketError(f"scores: {len(section)} bytes for a short series, expected none")
        symbols = self.short.get(coding.count, coding.table.tolist())
        return series_of(symbols, coding, entries)


def write_series(series: Scores, writer: BitWriter) -> tuple[Coding, Int64[np.ndarray, " value"]]:
    """Writes how the series is coded; this, and the symbols to code. Differences of live values are
    below `LARGEST_SPREAD`."""
    steps = np.diff(series.some, prepend=0)
    running = _better_running(series.some, steps)
    some = steps if running else series.some
    low = int(some.min(initial=0 if not some.size else int(some[0])))
    spread = int(some.max(initial=low)) - low + 1
    alive = np.flatnonzero(series.live)
    count = int(alive[-1]) + 1 if alive.size else 0
    symbols = np.full(count, spread, dtype=np.int64)
    symbols[alive] = some - low
    number = Number(1)
    number.put(series.live.size - count, writer)
    number.put(int(running), writer)
    number.put_signed(low, writer)
    number.put(spread - 1, writer)
    counts = np.bincount(symbols, minlength=spread + 1)[None]
    edges = tuple(range(spread))
    hazards = write_hazards(counts, [count], edges, writer)
    return Coding(count, running, low, spread, _table(hazards)), symbols


def read_coding(entries: int, reader: BitReader) -> Coding:
    """What `write_series` wrote of a series. Raises PacketError: beyond what scores can be."""
    number = Number(1)
    count = entries - number.get(reader)
    running = number.get(reader)
    low = number.get_signed(reader)
    spread = number.get(reader) + 1
    if count < 0 or running > 1 or abs(low) > LARGEST_SCORE or spread > 2 * LARGEST_SPREAD:
        raise PacketError(f"scores: {count} from {low}, spread {spread}, running {running}")
    hazards = read_hazards([count], spread, tuple(range(spread)), reader)
    return Coding(count, bool(running), low, spread, _table(hazards))


def series_of(symbols: Int64[np.ndarray, " value"], coding: Coding, entries: int) -> Scores:
    """The series with these symbols. Raises PacketError: beyond `LARGEST_SCORE`."""
    live = np.zeros(entries, dtype=np.bool_)
    live[: coding.count] = symbols < coding.spread
    some = symbols[live[: coding.count]] + coding.low
    if coding.running:
        some = some.cumsum()
    if some.size and max(-int(some.min()), int(some.max())) > LARGEST_SCORE:
        raise PacketError(f"scores: {some.min()} to {some.max()}, expected {LARGEST_SCORE} at most")
    values = np.zeros(live.size, dtype=np.int64)
    values[live] = some
    return Scores(values, live)


def _table(hazards: Hazards) -> UInt16[np.ndarray, " symbol"]:
    table: UInt16[np.ndarray, " symbol"] = twelve_bits(magnitude_shares(hazards) << 8)[0]
    return table


def _better_running(values: Int64[np.ndarray, " live"], steps: Int64[np.ndarray, " live"]) -> bool:
    # the first difference may be far from all others
    usual = steps[1:]
    if not usual.size or int(steps.max()) - int(steps.min()) >= 2 * LARGEST_SPREAD:
        return False
    return _entropy_bits(steps) < _entropy_bits(values)


def _entropy_bits(values: Int64[np.ndarray, " live"]) -> float:
    counts = np.bincount(values - values.min())
    counts = counts[counts > 0]
    return float((counts * np.log2(values.size / counts)).sum())
