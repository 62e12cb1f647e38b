"""Scores of rows and columns: how large their symbols are, as integers on a logarithmic scale.

If values are Laplacian with scale `row scale * column scale` and are cut into steps, a mean
magnitude m of their symbols belongs to the scale 1 / ln(1 + 1 / m) [steps]. Its logarithm is the
score, so that a row's and a column's score add up to that of the symbol where they meet.

Also how a series of such integers is coded: by a table of its own, a short one in plain Python, a
long one by the kernels. Knows nothing of the symbols' tables.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt16

from cutlayer.codec.entropy import tables
from cutlayer.codec.entropy.adaptive_bits import BitReader, BitWriter, Number
from cutlayer.codec.entropy.short_code import ShortDecoder, ShortEncoder
from cutlayer.codec.kernels.kernels import ContextModel, Kernels
from cutlayer.errors import PacketError

# scores are within it, so that two of them add up in int16 many times
LARGEST_SCORE = 1 << 9
# different values of a series
LARGEST_SPREAD = 128
# a longer series goes to the kernels, whose code has some 100 bytes more
_LONG = 2048


def log_scale(means: Float64[np.ndarray, " any"]) -> Float64[np.ndarray, " any"]:
    """log2 of the Laplacian scale [steps] at which symbols have these mean magnitudes, all > 0."""
    scales: Float64[np.ndarray, " any"] = -np.log2(np.log1p(1 / means))
    return scales


@dataclass(frozen=True, eq=False)
class Series:
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


def write_series(series: Series, writer: BitWriter) -> tuple[Coding, Int64[np.ndarray, " value"]]:
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
    hazards = tables.write_hazards(counts, [count], edges, writer)
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
    hazards = tables.read_hazards([count], spread, tuple(range(spread)), reader)
    return Coding(count, bool(running), low, spread, _table(hazards))


def series_of(symbols: Int64[np.ndarray, " value"], coding: Coding, entries: int) -> Series:
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
    return Series(values, live)


def encode_all(named: dict[str, Series], writer: BitWriter, kernels: Kernels) -> dict[str, bytes]:
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
    """Reads series in the order in which `encode_all` took them."""

    reader: BitReader
    short: ShortDecoder
    kernels: Kernels

    def get(self, entries: int, section: bytes) -> Series:
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


def _table(hazards: tables.Hazards) -> UInt16[np.ndarray, " symbol"]:
    table: UInt16[np.ndarray, " symbol"] = tables.twelve_bits(tables.magnitudes(hazards) << 8)[0]
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
