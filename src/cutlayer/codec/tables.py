"""Scores of rows and columns, and the frequency tables of the symbols that they lead to.

A table: a class of scores is described by its hazards: c(j), the probability that a magnitude that
is at least j is larger than j. Magnitudes that are rare share one hazard, see `HAZARD_EDGES`. A
hazard is one of as many values as the number of symbols it will serve is worth (about its square
root: each then costs half a bit in precision), evenly spread on a scale on which all are equally
hard to tell apart, and is written as its difference from the class before. Signs: a column's skew
is one of a few levels, either way; with each level goes one probability. All arithmetic that the
decoder repeats is on integers; the loops are the kernels'.

A score: how large the symbols of a row or column are, as an integer on a logarithmic scale. If
values are Laplacian with scale `row scale * column scale` and are cut into steps, a mean magnitude
m of their symbols belongs to the scale 1 / ln(1 + 1 / m) [steps]. Its logarithm is the score, so
that a row's and a column's score add up to that of the symbol where they meet. A series of scores
is coded by a table of its own, a short one with one state, a long one with many.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt16

from cutlayer.codec.kernels.adaptive_bits import BitReader, BitWriter, Number
from cutlayer.codec.kernels.kernels import (
    FREQUENCY_SUM,
    ContextModel,
    Hazards,
    Integers,
    Kernels,
)
from cutlayer.errors import PacketError

# the first magnitude of each group that shares a hazard
HAZARD_EDGES: Integers = np.array((0, 1, 2, 3, 4, 5, 6, 8, 12, 18, 30))
SIGN_ONE = 256
# scores are within it, so that two of them add up in int16 many times
LARGEST_SCORE = 1 << 9
# different values of a series
LARGEST_SPREAD = 128
# a longer series goes to the kernels, whose code has some 100 bytes more
_LONG = 2048
# of the short code
_START = 1 << 16


def majority_share(more: int, less: int) -> int:
    """The share [1/256] of the larger part; 256 only if it is all."""
    if not less:
        return SIGN_ONE
    share = (SIGN_ONE * more + (more + less) // 2) // (more + less)
    return min(max(share, SIGN_ONE // 2), SIGN_ONE - 1)


def frequency_tables(
    shares: Int64[np.ndarray, "kind magnitude"], majorities: list[int], kernels: Kernels
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
    tables = kernels.twelve_bits(weights.reshape(-1, 2 * reach + 1))
    dead = np.zeros((1, 2 * reach + 1), dtype=np.uint16)
    dead[0, reach] = FREQUENCY_SUM
    return np.concatenate([dead, tables])


def class_sizes(
    row_scores: Int64[np.ndarray, " row"], column_scores: Int64[np.ndarray, " column"], classes: int
) -> Integers:
    """How many symbols each class codes, for scores of rows and columns that are coded."""
    if not row_scores.size or not column_scores.size:
        return np.zeros(classes, dtype=np.int64)
    low_row, low_column = int(row_scores.min()), int(column_scores.min())
    rows = np.bincount(row_scores - low_row)
    columns = np.bincount(column_scores - low_column)
    sizes = np.convolve(rows, columns)
    kinds = np.clip(np.arange(sizes.size) + low_row + low_column, 0, classes - 1)
    totals = np.zeros(classes, dtype=np.int64)
    np.add.at(totals, kinds, sizes)
    return totals


def log_scale(means: Float64[np.ndarray, " any"]) -> Float64[np.ndarray, " any"]:
    """log2 of the Laplacian scale [steps] at which symbols have these mean magnitudes, all > 0."""
    return np.array([-math.log2(math.log1p(1 / mean)) for mean in means.tolist()])


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
    """A few hundred symbols by static tables: rANS with one state.

    Takes series of symbols, the last one first; `to_bytes` ends the code, which is two bytes and
    some bits longer than the symbols' information; many states are faster but 100 bytes longer.
    State in [2^16, 2^32), 16-bit words, 12-bit frequencies. The code: the final state (u32, little
    endian), then the words in the decoder's order.

    Source: Duda, "Asymmetric numeral systems" (2013), arXiv:1311.2540.
    """

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._state = _START
        self._words: list[int] = []

    def put(self, symbols: Integers, table: UInt16[np.ndarray, " symbol"]) -> None:
        """One series, by a table of sum 4096 in which each of its symbols occurs."""
        self._state, words = self._kernels.short_encode(symbols, table, self._state)
        self._words += words

    def to_bytes(self) -> bytes:
        """The code of all series; empty if there is nothing to say."""
        if self._state == _START and not self._words:
            return b""
        words = np.array(self._words[::-1], dtype="<u2")
        return self._state.to_bytes(4, "little") + words.tobytes()


class ShortDecoder:
    """`ShortEncoder` undone: gives the series, the first one first."""

    def __init__(self, code: bytes, kernels: Kernels) -> None:
        """Raises PacketError: a code of no whole words."""
        if not code:
            code = _START.to_bytes(4, "little")
        if len(code) < 4 or len(code) % 2:
            raise PacketError(f"scores: {len(code)} bytes, expected 4 and an even number more")
        self._kernels = kernels
        self._state = int.from_bytes(code[:4], "little")
        self._words = np.frombuffer(code[4:], dtype="<u2").astype(np.uint16)

    def get(self, count: int, table: UInt16[np.ndarray, " symbol"]) -> Integers:
        """The next `count` symbols. Raises PacketError: the code ends before."""
        symbols, self._state, taken = self._kernels.short_decode(
            self._words, count, table, self._state
        )
        self._words = self._words[taken:]
        return symbols

    def finish(self) -> None:
        """Raises PacketError unless all of the code was read and was a code."""
        if self._words.size or self._state != _START:
            raise PacketError("scores: the code goes on after the last of them or is damaged")


def write_scores(named: dict[str, Scores], writer: BitWriter, kernels: Kernels) -> dict[str, bytes]:
    """The sections of several series: a section each for long ones, "scores" for all others."""
    sections: dict[str, bytes] = {}
    short = []
    for name, series in named.items():
        coding, symbols = write_series(series, writer, kernels)
        if symbols.size > _LONG:
            model = coding.model()
            shifted = (symbols - model.reach).astype(np.int16)
            sections[name] = kernels.rans_encode(shifted[None], model, 1)[0]
        else:
            short.append((symbols, coding.table))
    encoder = ShortEncoder(kernels)
    for symbols, table in reversed(short):
        encoder.put(symbols, table)
    return {"scores": encoder.to_bytes(), **sections}


@dataclass(frozen=True, eq=False)
class SeriesReader:
    """Reads series in the order in which `write_scores` took them."""

    reader: BitReader
    short: ShortDecoder
    kernels: Kernels

    def get(self, entries: int, section: bytes) -> Scores:
        """The next series. `section`: of its name. Raises PacketError: there is no such series."""
        coding = read_coding(entries, self.reader, self.kernels)
        if coding.count > _LONG:
            model = coding.model()
            decoded = self.kernels.rans_decode([section], model, coding.count)[0]
            return series_of(decoded.astype(np.int64) + model.reach, coding, entries)
        if section:
            raise PacketError(f"scores: {len(section)} bytes for a short series, expected none")
        symbols = self.short.get(coding.count, coding.table)
        return series_of(symbols, coding, entries)


def write_series(
    series: Scores, writer: BitWriter, kernels: Kernels
) -> tuple[Coding, Int64[np.ndarray, " value"]]:
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
    hazards = kernels.write_hazards(counts, np.array([count]), np.arange(spread), writer)
    return Coding(count, running, low, spread, _table(hazards, kernels)), symbols


def read_coding(entries: int, reader: BitReader, kernels: Kernels) -> Coding:
    """What `write_series` wrote of a series. Raises PacketError: beyond what scores can be."""
    number = Number(1)
    count = entries - number.get(reader)
    running = number.get(reader)
    low = number.get_signed(reader)
    spread = number.get(reader) + 1
    if count < 0 or running > 1 or abs(low) > LARGEST_SCORE or spread > 2 * LARGEST_SPREAD:
        raise PacketError(f"scores: {count} from {low}, spread {spread}, running {running}")
    hazards = kernels.read_hazards(np.array([count]), spread, np.arange(spread), reader)
    return Coding(count, bool(running), low, spread, _table(hazards, kernels))


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


def _table(hazards: Hazards, kernels: Kernels) -> UInt16[np.ndarray, " symbol"]:
    table: UInt16[np.ndarray, " symbol"] = kernels.twelve_bits(
        kernels.magnitude_shares(hazards) << 8
    )[0]
    return table


def _better_running(values: Int64[np.ndarray, " live"], steps: Int64[np.ndarray, " live"]) -> bool:
    # the first difference may be far from all others
    usual = steps[1:]
    if not usual.size or int(steps.max()) - int(steps.min()) >= 2 * LARGEST_SPREAD:
        return False
    return _entropy_bits(steps) < _entropy_bits(values)


def _entropy_bits(values: Int64[np.ndarray, " live"]) -> float:
    counts = np.bincount(values - values.min())
    terms = [count * math.log2(values.size / count) for count in counts.tolist() if count]
    return float(np.sum(terms))
