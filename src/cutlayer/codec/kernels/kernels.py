"""The hot loops of the codec, behind one interface: C where it was built, numpy everywhere.

Both give the same bytes: loops over floats use float32 operations in a fixed order, everything else
is integer arithmetic. Knows arrays only, nothing of packets, stages or state. Values are flat
float32, samples one after another; symbols are int16 `[row, column]`, a row per token.

Loops over values take and give an `Array` where values live (`Kernels.arrays`); loops over symbols,
from `sums` on, are the entropy coders' and on the host, and so is whatever there is one of for each
row, segment or column.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, final

import numpy as np
from jaxtyping import Float, Float32, Float64, Int16, Int64, Shaped, UInt8, UInt16

from cutlayer.codec.kernels.adaptive_bits import BitReader, BitWriter
from cutlayer.errors import PacketError

# a row that is not coded: all its symbols are zero
SKIPPED_ROW = np.int16(-32768)
LANES = 32
FREQUENCY_BITS = 12
FREQUENCY_SUM = 1 << FREQUENCY_BITS
# two-way contexts: magnitudes in a table, classes, symbols that tell what classes are like
LARGEST_REACH = 62
LARGEST_CLASSES = 64
SAMPLE_SYMBOLS = 1 << 20
SCORE_SECTIONS = ("scores", "row scores", "column scores", "skews")
# hazards are in 1 / HAZARD_ONE; a class of more symbols is as precise as one of so many
HAZARD_ONE = 1 << 24
MOST_SYMBOLS = 1 << 40

# numpy's on the host, torch's on a device: they have operators, slices and `reshape` in common, but
# no type that this package, which needs numpy alone, could name
Array: TypeAlias = Any
# how many of the values, one segment after another, each segment has
Sizes: TypeAlias = Int64[np.ndarray, " segment"]
# symbols on the host, a row per token
Symbols: TypeAlias = Int16[np.ndarray, "row column"]
Hazards: TypeAlias = Int64[np.ndarray, "kind level"]
Integers: TypeAlias = Int64[np.ndarray, " _"]
T = TypeVar("T")


class Arrays(ABC):
    """Where values live, and what the stages do with whole arrays there besides the loops.

    On the host an array is numpy's; another form may keep values and symbols on a device, and then
    this is all that crosses. Small integers are int16 on either side.
    """

    @abstractmethod
    def of(self, array: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
        """The array where values live, contiguous; itself if it is there already."""

    @abstractmethod
    def to_host(self, array: Shaped[Array, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
        """The array on the host."""

    @abstractmethod
    def full(
        self, shape: tuple[int, ...], value: float, dtype: type[np.generic]
    ) -> Shaped[Array, "..."]:
        """A new array that holds `value` everywhere."""

    @abstractmethod
    def wide(self, array: Float32[Array, "*shape"]) -> Float[Array, "*shape"]:
        """In double precision, where values live on a device that has it."""

    @abstractmethod
    def energies(self, values: Float32[Array, "row column"]) -> Float32[np.ndarray, " column"]:
        """The sum of each column's squares, on the host."""

    @abstractmethod
    def places(
        self, edges: Float32[np.ndarray, " edge"], values: Float32[Array, "row column"]
    ) -> Int16[Array, "row column"]:
        """How many of the rising `edges` are at most each value."""


@final
class HostArrays(Arrays):
    """numpy's."""

    def of(self, array: Shaped[np.ndarray, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
        return np.ascontiguousarray(array)

    def to_host(self, array: Shaped[np.ndarray, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
        return array

    def full(
        self, shape: tuple[int, ...], value: float, dtype: type[np.generic]
    ) -> Shaped[np.ndarray, "..."]:
        return np.full(shape, value, dtype=dtype)

    def wide(self, array: Float32[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
        return array.astype(np.float64)

    def energies(self, values: Float32[np.ndarray, "row column"]) -> Float32[np.ndarray, " column"]:
        found: Float32[np.ndarray, " column"] = np.einsum("rc,rc->c", values, values)
        return found

    def places(
        self, edges: Float32[np.ndarray, " edge"], values: Float32[np.ndarray, "row column"]
    ) -> Symbols:
        return np.searchsorted(edges, values, side="right").astype(np.int16)


def dot(a: Shaped[Array, "*shape"], b: Shaped[Array, "*shape"], arrays: Arrays) -> float:
    """The inner product, in the arrays' own precision."""
    return float(arrays.to_host(a.reshape(1, -1) @ b.reshape(-1, 1))[0, 0])


@dataclass(frozen=True, eq=False)
class Moments:
    """Of the magnitudes `|x| / step` that quantise to 1, and to 2 or more: how many, and the sum of
    `|x| / step - level` in 1/4096, each rounded down."""

    ones: int
    ones_excess: int
    more: int
    more_excess: int


@dataclass(frozen=True, eq=False)
class SymbolSums:
    """Sums over the symbols q: of |q| for each row, of |q| and of q's sign for each column."""

    rows: Int64[np.ndarray, " row"]
    columns: Int64[np.ndarray, " column"]
    signs: Int64[np.ndarray, " column"]
    largest: int


@dataclass(frozen=True, eq=False)
class ContextModel:
    """Which table codes the symbol of row r and column c, and the tables.

    table = column_tables[c] + clip(row_scores[r] + column_scores[c], 0, classes - 1); rows of score
    SKIPPED_ROW are not coded, nor are columns from len(column_scores) on: their symbols are zero.
    `frequencies[table, symbol + reach]`: 12-bit frequencies of symbols -reach..reach.
    """

    row_scores: Int16[np.ndarray, " row"]
    column_scores: Int16[np.ndarray, " coded"]
    column_tables: Int16[np.ndarray, " coded"]
    classes: int
    frequencies: UInt16[np.ndarray, "table symbol"]

    @property
    def reach(self) -> int:
        """The largest magnitude of a symbol."""
        return int((self.frequencies.shape[1] - 1) // 2)


@dataclass(frozen=True, eq=False)
class Described:
    """What a two-way coder says of a matrix of symbols beside its code.

    Sections of scores, the bits of the model, what symbols beyond the tables' reach exceed it by;
    the model itself, and how many symbols it codes: of a matrix of zeros none, and there is nothing
    else.
    """

    scores: dict[str, bytes]
    model_bits: bytes
    escapes: bytes
    model: ContextModel
    symbols: int

    @staticmethod
    def nothing() -> "Described":
        """Of a matrix of zeros."""
        none, table = np.zeros(0, dtype=np.int16), np.zeros((1, 1), dtype=np.uint16)
        return Described({}, b"", b"", ContextModel(none, none, none, 1, table), 0)


class Kernels(ABC):
    """One method per loop. All allocate their own results and leave their arguments alone.

    The mix of an index i and a seed, all numbers modulo 2^32, starts from two keys of the seed:
    a = bias(seed's low 32 bits), b = bias(seed's high 32 bits + a), where bias(x) is

        x ^= x >> 16;  x *= 0x7FEB352D;  x ^= x >> 15;  x *= 0x846CA68B;  x ^= x >> 16

    and is the same function, begun at x = i * 0x9E3779B9 + a, with b added before the second
    product. Source: C. Wellons, "Prospecting for hash functions" (lowbias32), 2018.
    """

    @property
    def arrays(self) -> Arrays:
        """Where this form's values are, and the symbols that it makes of them."""
        return HostArrays()

    @abstractmethod
    def turn(
        self,
        values: Float32[Array, "row width"],
        mean: Float32[Array, " width"] | None,
        basis: Float32[Array, "width component"],
    ) -> Float32[Array, "row component"]:
        """(values - mean) @ basis, in float32.

        On the host in runs of `threads.RUN_ROWS` rows, whatever the number of threads: where they
        end, a matrix product differs in its last bits. Those are numpy's, of one thread.
        """

    @abstractmethod
    def turn_back(
        self,
        values: Float32[Array, "row some"],
        mean: Float32[Array, " width"] | None,
        basis: Float32[Array, "width component"],
    ) -> Float32[Array, "row width"]:
        """values @ (the basis' first columns, as many as the values')^T + mean; as `turn`."""

    @abstractmethod
    def start(self, work: Callable[[], T]) -> Callable[[], T]:
        """Work that goes on beside what is called next, where there are threads for it; the call
        that waits for its result."""

    @abstractmethod
    def top_k(
        self, values: Float32[Array, " value"], sizes: Sizes, counts: Sizes
    ) -> UInt8[Array, " value"]:
        """1 at the `counts[i]` values of largest magnitude in segment i, of equal ones the first;
        0 elsewhere. Values are finite."""

    @abstractmethod
    def largest(self, values: Float32[Array, "..."]) -> float:
        """The largest magnitude, 0 of none; infinite if any value is not finite."""

    @abstractmethod
    def extremes(
        self, values: Float32[Array, " value"], kept: UInt8[Array, " value"], sizes: Sizes
    ) -> Float32[np.ndarray, "2 segment"]:
        """The smallest and the largest kept magnitude of each segment; zeros where none is kept."""

    @abstractmethod
    def quantise_levels(
        self,
        values: Float32[Array, " value"],
        kept: UInt8[Array, " value"],
        sizes: Sizes,
        extremes: Float32[np.ndarray, "2 segment"],
        levels: int,
        seed: int,
    ) -> Int16[Array, " value"]:
        """Stochastic rounding to `levels` + 1 even points between each segment's extremes.

        The symbol of point e is e + 1 with the value's sign (-0.0 counts as positive), 0 where not
        kept. In float32, with i the index of the value, h(i) the upper 24 bits of the mix of i and
        the seed: e = min(levels, floor((|x| - low) / span * levels + h(i) / 2^24)), span = high -
        low, or 1 where they are equal. The division comes first, then the product, then the sum.
        """

    @abstractmethod
    def dequantise_points(
        self,
        symbols: Int16[Array, " value"],
        sizes: Sizes,
        points: Float32[np.ndarray, "segment point"],
    ) -> Float32[Array, " value"]:
        """sign(q) * points[segment, |q| - 1], or 0 for q = 0. Raises PacketError where |q| is more
        than the number of points."""

    @abstractmethod
    def quantise_dead_zone(
        self, values: Float32[Array, " value"], step: np.float32, rounding: np.float32
    ) -> tuple[Int16[Array, " value"], Moments]:
        """sign(x) * floor(min(|x| * (1 / step), 32767) + rounding); `rounding` in (0, 0.5].

        1 / step is rounded to float32 once and must be finite; the moments use the same minimum.
        """

    @abstractmethod
    def dequantise_dead_zone(
        self,
        symbols: Int16[Array, " value"],
        step: np.float32,
        shift_one: np.float32,
        shift_more: np.float32,
    ) -> Float32[Array, " value"]:
        """sign(q) * (|q| + shift) * step with shift_one for |q| = 1, shift_more above; 0 for 0."""

    @abstractmethod
    def quantise_rows(
        self, values: Float32[Array, "row column"], bits: int, block: int = 1
    ) -> tuple[Int16[Array, "row column"], Float32[np.ndarray, " row"]]:
        """Symbols and each row's largest magnitude m, `bits` in 2..8, of the rows after `hadamard`
        in blocks of `block` (1: as they are).

        3 and more: q = rint(x * (P / m)), P = 2^(bits-1) - 1, half to even. 2: four levels, q in
        {-2, -1, 1, 2}: |q| = 2 where |x| > m / 2, else 1. A row of zeros: scale 0; q = 0 (1 for
        2 bits). Tiny m is guarded: P / m that is not finite makes the row zero.
        """

    @abstractmethod
    def dequantise_rows(
        self,
        symbols: Int16[Array, "row column"],
        scales: Float32[np.ndarray, " row"],
        bits: int,
        block: int = 1,
    ) -> Float32[Array, "row column"]:
        """3 and more: q * (m / P). 2: (|q| - 1/2) * (m / 2) * sign(q), 0 for q = 0. Then `hadamard`
        is undone, in blocks of `block`."""

    @abstractmethod
    def hadamard(
        self, values: Float32[Array, "row column"], block: int, *, inverse: bool
    ) -> Float32[Array, "row column"]:
        """Each row in blocks of `block` (a power of two that divides the columns): fixed random
        signs, then the Walsh-Hadamard transform scaled to be orthonormal; `inverse` undoes it.

        sign of column c: negative where bit 0 of the mix of (c, 0) is 1. Butterflies run h = 1, 2,
        4, ...; the scale 1 / sqrt(block), rounded to float32, multiplies last (before the signs on
        the way back).
        """

    @abstractmethod
    def sums(self, symbols: Symbols) -> SymbolSums:
        """See `SymbolSums`."""

    def described(self, symbols: Symbols) -> Described | None:
        """What `two_way.described` makes of the symbols, to the byte; None where this form goes
        step by step, by the loops below."""
        return None

    @abstractmethod
    def histogram(self, symbols: Symbols, model: ContextModel) -> Int64[np.ndarray, "table symbol"]:
        """How often each symbol is coded by each table; `model.frequencies` gives only the shape.
        Symbols beyond the reach count as the nearest symbol within."""

    @abstractmethod
    def rans_encode(self, symbols: Symbols, model: ContextModel, chunks: int) -> list[bytes]:
        """One code for each of `chunks` even runs of rows (`chunk_bounds`).

        Interleaved rANS: the i-th coded symbol of a chunk is lane i % LANES's; states of 32 bits in
        [2^16, 2^32), 16-bit words, 12-bit frequencies. A code is the lanes' final states (u32),
        then the words in the decoder's order. Symbols beyond the reach are coded as the nearest.
        """

    @abstractmethod
    def rans_decode(self, codes: list[bytes], model: ContextModel, columns: int) -> Symbols:
        """`rans_encode` undone, for `columns` columns; `len(codes)` is the number of chunks.

        Raises PacketError for any other bytes, and for a table that is needed and does not sum to
        4096.
        """

    @abstractmethod
    def pack(self, symbols: Int16[np.ndarray, " value"], width: int, offset: int = 0) -> bytes:
        """The low `width` bits (1..16) of each symbol + `offset`, the first one lowest."""

    @abstractmethod
    def unpack(self, data: bytes, count: int, width: int) -> Int16[np.ndarray, " value"]:
        """`pack` without offset undone, as unsigned numbers (so width 16 may come out negative).

        Raises PacketError: `data` has another length.
        """

    @abstractmethod
    def write_hazards(
        self,
        counts: Int64[np.ndarray, "kind magnitude"],
        sizes: Integers,
        edges: Integers,
        writer: BitWriter,
    ) -> Hazards:
        """Writes hazards that fit `counts` (how often each class codes each magnitude 0..reach) and
        returns them as the reader will have them.

        `sizes`: how many symbols each class codes. `edges`: the first magnitude of each group that
        shares a hazard. A hazard is the cell of a scale of min(2 + isqrt(n), 1024) cells, n being
        how many symbols it serves by the hazards before it; what is written is its difference from
        the cell where the class before would have it, by a `Number` of 8 unary steps for each of
        the first seven groups and one for all others. Cell c of m: x^2 (3 - 2 x) at x = c / m,
        within 1 % of sin^2(pi x / 2), on which equal steps are equally hard to tell apart; the
        predicted cell is taken where it costs less than 1.5 bits.
        """

    @abstractmethod
    def read_hazards(
        self, sizes: Integers, reach: int, edges: Integers, reader: BitReader
    ) -> Hazards:
        """The hazards of `write_hazards`. Raises PacketError: one that is no probability."""

    @abstractmethod
    def magnitude_shares(self, hazards: Hazards) -> Int64[np.ndarray, "kind magnitude"]:
        """The probability [2^-24, about] of each magnitude 0..reach; zero only where it cannot
        occur, if all before it went on for certain or one before it never."""

    @abstractmethod
    def twelve_bits(
        self, weights: Int64[np.ndarray, "table symbol"]
    ) -> UInt16[np.ndarray, "table symbol"]:
        """Frequencies of sum 4096 in proportion to weights of sum 2^32, about; none is lost. What
        rounding leaves or lacks goes to or comes from the largest."""

    @abstractmethod
    def short_encode(
        self, symbols: Integers, table: UInt16[np.ndarray, " symbol"], state: int
    ) -> tuple[int, list[int]]:
        """rANS with one state, from the last symbol to the first: the state after it, and the words
        that it gave. `table`: of sum 4096, in which each of the symbols occurs."""

    @abstractmethod
    def short_decode(
        self,
        words: UInt16[np.ndarray, " word"],
        count: int,
        table: UInt16[np.ndarray, " symbol"],
        state: int,
    ) -> tuple[Integers, int, int]:
        """`count` symbols, the state after them, and how many of the first `words` they took.

        Raises PacketError: they end before the symbols do.
        """


def check_segments(values: int, sizes: Sizes) -> None:
    """Raises ValueError unless the sizes are those of that many values."""
    if (sizes < 0).any() or int(sizes.sum()) != values:
        raise ValueError(f"segments of {int(sizes.sum())} values in all, but {values} are given")


def check_model(model: ContextModel, rows: int, columns: int) -> None:
    """Raises PacketError unless every row and coded column has a table."""
    coded = model.column_scores.size
    tables, symbols = model.frequencies.shape
    if model.row_scores.size != rows or coded > columns or model.column_tables.size != coded:
        raise PacketError(
            f"a model of {model.row_scores.size} rows, {coded} column scores and "
            f"{model.column_tables.size} column tables for {rows} x {columns} symbols"
        )
    if symbols % 2 == 0 or symbols > 65535 or tables * max(symbols, FREQUENCY_SUM) >= 1 << 31:
        raise PacketError(f"{tables} tables of {symbols} symbols: not a model")
    if coded and not 1 <= model.classes <= tables - int(model.column_tables.max()):
        raise PacketError(f"{model.classes} classes and {tables} tables: not all columns have one")
    if coded and int(model.column_tables.min()) < 0:
        raise PacketError("a column's table is below 0")


def check_block(columns: int, block: int) -> None:
    """Raises ValueError unless `block` is a power of two that divides `columns`."""
    if block < 1 or block & (block - 1) or columns % block:
        raise ValueError(f"blocks of {block}: not a power of two that divides {columns} columns")


def check_width(width: int) -> None:
    """Raises ValueError unless symbols can be packed to that many bits."""
    if not 1 <= width <= 16:
        raise ValueError(f"{width} bits a symbol: it must be 1 to 16")


def check_packed(data: bytes, count: int, width: int) -> None:
    """Raises PacketError unless `data` is as long as `count` packed symbols."""
    check_width(width)
    if len(data) != (count * width + 7) // 8:
        raise PacketError(f"{len(data)} bytes for {count} symbols of {width} bits")


def check_bits(bits: int) -> None:
    """Raises ValueError unless rows can be quantised to that many bits."""
    if not 2 <= bits <= 8:
        raise ValueError(f"{bits} bits a symbol: it must be 2 to 8")
