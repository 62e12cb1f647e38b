"""The hot loops in C: `_native.c`, as a shared library called through ctypes.

Knows the library's functions, hands them buffers and splits the work over threads (ctypes releases
the interpreter's lock). Checks here whatever keeps the C code inside its buffers. What the loops
compute is written in `kernels.py`; `load_kernels` takes the numpy form where there is no library.
"""

import os
import warnings
from collections.abc import Callable
from functools import cache
from typing import TypeVar, final

import numpy as np
from jaxtyping import Float32, Int16, Int32, Int64, UInt8, UInt16

from cutlayer.codec.kernels.adaptive_bits import BitReader, BitWriter
from cutlayer.codec.kernels.kernels import (
    FREQUENCY_SUM,
    LANES,
    SKIPPED_ROW,
    ContextModel,
    Described,
    Hazards,
    Integers,
    Kernels,
    Moments,
    Sizes,
    Symbols,
    SymbolSums,
    check_bits,
    check_block,
    check_model,
    check_packed,
    check_segments,
    check_width,
)
from cutlayer.codec.kernels.library import Library, aligned
from cutlayer.codec.kernels.native_contexts import Contexts, described
from cutlayer.codec.kernels.portable import Portable
from cutlayer.codec.kernels.threads import (
    RUN_ROWS,
    Threads,
    chunk_bounds,
    runs_of,
    turned,
    turned_back,
)
from cutlayer.errors import PacketError

NARROW_SYMBOLS = 256  # as many fit the decoder's compact tables
HISTOGRAM_COPIES = 4
PRODUCT_ROWS = 96  # at once, in a thread's scratch
HAZARD_BYTES = 64  # of one, at most: 30 bits of 14 each
INFINITY = 0x7F800000  # the bits of that float32

T = TypeVar("T")
# annotations within methods are made for every packet: numpy's alone, since jaxtyping's take 10 us


@final
class Native(Kernels):
    """See `Kernels`. `threads`: over how many to split each call; results do not depend on it."""

    def __init__(self, threads: int = 1, library: str | None = None) -> None:
        """Raises OSError where the library was not built (`library`: its path, if not beside)."""
        self.library = Library(library)
        self._call = self.library.call
        self.threads = Threads(threads)

    def __reduce__(self) -> tuple[Callable[..., Kernels], tuple[int]]:
        """In another process, whatever that has: the bytes are the same."""
        return load_kernels, (self.threads.count,)

    def turn(
        self,
        values: Float32[np.ndarray, "row width"],
        mean: Float32[np.ndarray, " width"] | None,
        basis: Float32[np.ndarray, "width component"],
    ) -> Float32[np.ndarray, "row component"]:
        if not (self.library.multiplies and _worth(len(values), len(basis), basis.shape[1])):
            return turned(values, mean, basis, self.threads.each)
        return self._product(values, mean, basis, None)

    def turn_back(
        self,
        values: Float32[np.ndarray, "row some"],
        mean: Float32[np.ndarray, " width"] | None,
        basis: Float32[np.ndarray, "width component"],
    ) -> Float32[np.ndarray, "row width"]:
        if not (self.library.multiplies and _worth(len(values), values.shape[1], len(basis))):
            return turned_back(values, mean, basis, self.threads.each)
        back = np.empty((values.shape[1], len(basis)), dtype=np.float32)
        matrix = aligned(basis, np.float32)
        self._call("transposed", matrix, len(basis), len(back), matrix.shape[1], back)
        return self._product(values, None, back, mean)

    def _product(
        self,
        values: np.ndarray,
        before: np.ndarray | None,
        right: np.ndarray,
        after: np.ndarray | None,
    ) -> np.ndarray:
        """(values - before) @ right + after. Threads share the runs of rows."""
        inner, columns = right.shape
        matrix = aligned(right, np.float32)
        means = [None if mean is None else aligned(mean, np.float32) for mean in (before, after)]
        # rows may be the first columns of wider ones
        rows = values if values.strides[1] == 4 and values.strides[0] >= 4 * inner else None
        rows = aligned(values, np.float32) if rows is None else rows
        out = np.empty((len(values), columns), dtype=np.float32)

        def work(first: int, last: int) -> None:
            scratch = np.empty(PRODUCT_ROWS * (inner + 16), dtype=np.float32)
            self._call(
                "product",
                *(rows.ctypes.data + first * rows.strides[0], rows.strides[0] // 4, means[0]),
                *(matrix, means[1], last - first, inner, columns, scratch, out[first:last]),
            )

        self.threads.each(runs_of(len(values)), work)
        return out

    def start(self, work: Callable[[], T]) -> Callable[[], T]:
        return self.threads.start(work)

    def top_k(
        self, values: Float32[np.ndarray, " value"], sizes: Sizes, counts: Sizes
    ) -> UInt8[np.ndarray, " value"]:
        """Threads share the segments."""
        check_segments(values.size, sizes)
        x, n, k = (
            aligned(values, np.float32),
            aligned(sizes, np.int64),
            aligned(counts, np.int64),
        )
        kept = np.empty(values.size, dtype=np.uint8)

        def work(first: int, last: int) -> None:
            scratch = np.empty(2 * int(n[first:last].max(initial=0)), dtype=np.uint32)
            self._call("top_k", x, n, k, first, last, kept, scratch)

        self.threads.split(sizes.size, work)
        return kept

    def largest(self, values: Float32[np.ndarray, "..."]) -> float:
        x = aligned(values, np.float32)

        def work(first: int, last: int) -> int:
            return self._call("largest", x, first, last)

        bits = max(self.threads.split(x.size, work), default=0)
        return float(np.array(bits, dtype=np.int32).view(np.float32)) if bits < INFINITY else np.inf

    def extremes(
        self, values: Float32[np.ndarray, " value"], kept: UInt8[np.ndarray, " value"], sizes: Sizes
    ) -> Float32[np.ndarray, "2 segment"]:
        """Threads share the segments."""
        check_segments(values.size, sizes)
        x, marks, n = (
            aligned(values, np.float32),
            aligned(kept, np.uint8),
            aligned(sizes, np.int64),
        )
        found = np.zeros((2, sizes.size), dtype=np.float32)

        def work(first: int, last: int) -> None:
            self._call("extremes", x, marks, n, first, last, found[0], found[1])

        self.threads.split(sizes.size, work)
        return found

    def quantise_levels(
        self,
        values: Float32[np.ndarray, " value"],
        kept: UInt8[np.ndarray, " value"],
        sizes: Sizes,
        extremes: Float32[np.ndarray, "2 segment"],
        levels: int,
        seed: int,
    ) -> Int16[np.ndarray, " value"]:
        check_segments(values.size, sizes)
        x, marks, n = (
            aligned(values, np.float32),
            aligned(kept, np.uint8),
            aligned(sizes, np.int64),
        )
        low, high = aligned(extremes, np.float32)
        symbols = np.empty(values.size, dtype=np.int16)

        def work(first: int, last: int) -> None:
            self._call(
                "quantise_levels",
                *(x, marks, n, n.size, low, high, levels, seed, first, last, symbols),
            )

        self.threads.split(values.size, work)
        return symbols

    def dequantise_points(
        self,
        symbols: Int16[np.ndarray, " value"],
        sizes: Sizes,
        points: Float32[np.ndarray, "segment point"],
    ) -> Float32[np.ndarray, " value"]:
        check_segments(symbols.size, sizes)
        q, n, p = (
            aligned(symbols, np.int16),
            aligned(sizes, np.int64),
            aligned(points, np.float32),
        )
        values = np.empty(symbols.size, dtype=np.float32)

        def work(first: int, last: int) -> None:
            self._call("dequantise_points", q, n, n.size, p, points.shape[1], first, last, values)

        self.threads.split(symbols.size, work)
        return values

    def quantise_dead_zone(
        self, values: Float32[np.ndarray, " value"], step: np.float32, rounding: np.float32
    ) -> tuple[Int16[np.ndarray, " value"], Moments]:
        x = aligned(values, np.float32)
        inverse = np.float32(1) / step
        symbols = np.empty(values.size, dtype=np.int16)

        def work(first: int, last: int) -> np.ndarray:
            moments = np.zeros(4, dtype=np.int64)
            self._call(
                "quantise_dead_zone",
                *(x[first:last], last - first, inverse, rounding, symbols[first:last], moments),
            )
            return moments

        moments = np.sum(self.threads.split(values.size, work), axis=0)
        return symbols, Moments(*moments.tolist())

    def dequantise_dead_zone(
        self,
        symbols: Int16[np.ndarray, " value"],
        step: np.float32,
        shift_one: np.float32,
        shift_more: np.float32,
    ) -> Float32[np.ndarray, " value"]:
        q = aligned(symbols, np.int16)
        values = np.empty(symbols.size, dtype=np.float32)

        def work(first: int, last: int) -> None:
            self._call(
                "dequantise_dead_zone",
                *(q[first:last], last - first, step, shift_one, shift_more, values[first:last]),
            )

        self.threads.split(symbols.size, work)
        return values

    def quantise_rows(
        self, values: Float32[np.ndarray, "row column"], bits: int, block: int = 1
    ) -> tuple[Symbols, Float32[np.ndarray, " row"]]:
        check_bits(bits)
        check_block(values.shape[1], block)
        x = aligned(values, np.float32)
        symbols = np.empty(values.shape, dtype=np.int16)
        scales = np.empty(values.shape[0], dtype=np.float32)

        def work(first: int, last: int) -> None:
            scratch = np.empty(2 * values.shape[1], dtype=np.float32)
            self._call(
                "quantise_rows",
                *(x[first:last], last - first, values.shape[1], bits, block, _unit(block)),
                *(scratch, symbols[first:last], scales[first:last]),
            )

        self.threads.split(values.shape[0], work)
        return symbols, scales

    def dequantise_rows(
        self, symbols: Symbols, scales: Float32[np.ndarray, " row"], bits: int, block: int = 1
    ) -> Float32[np.ndarray, "row column"]:
        check_bits(bits)
        check_block(symbols.shape[1], block)
        q, s = aligned(symbols, np.int16), aligned(scales, np.float32)
        values = np.empty(symbols.shape, dtype=np.float32)

        def work(first: int, last: int) -> None:
            signs = np.empty(symbols.shape[1], dtype=np.float32)
            self._call(
                "dequantise_rows",
                *(q[first:last], s[first:last], last - first, symbols.shape[1], bits),
                *(block, _unit(block), signs, values[first:last]),
            )

        self.threads.split(symbols.shape[0], work)
        return values

    def hadamard(
        self, values: Float32[np.ndarray, "row column"], block: int, *, inverse: bool
    ) -> Float32[np.ndarray, "row column"]:
        check_block(values.shape[1], block)
        x = aligned(values, np.float32)
        out = np.empty(values.shape, dtype=np.float32)

        def work(first: int, last: int) -> None:
            signs = np.empty(values.shape[1], dtype=np.float32)
            self._call(
                "hadamard",
                *(x[first:last], last - first, values.shape[1], block, _unit(block), int(inverse)),
                *(signs, out[first:last]),
            )

        self.threads.split(values.shape[0], work)
        return out

    def sums(self, symbols: Symbols) -> SymbolSums:
        q = aligned(symbols, np.int16)
        rows, columns = symbols.shape
        row_sums = np.zeros(rows, dtype=np.int64)

        def work(first: int, last: int) -> tuple[int, np.ndarray]:
            found = np.zeros((2, columns), dtype=np.int64)
            scratch = np.empty((2, columns), dtype=np.int32)
            largest = self._call(
                "sums", q, columns, first, last, row_sums, found[0], found[1], scratch
            )
            return largest, found

        parts = self.threads.split(rows, work)
        column_sums, signs = np.sum([found for _, found in parts], axis=0)
        return SymbolSums(row_sums, column_sums, signs, max(largest for largest, _ in parts))

    def described(self, symbols: Symbols) -> Described | None:
        q = aligned(symbols, np.int16)
        sums = self.sums(q)
        if not sums.largest:
            return Described.nothing()
        return described(q, sums, self._copies, self.library)

    def _copies(
        self, symbols: np.ndarray, stride: int, contexts: Contexts, shape: tuple[int, int]
    ) -> np.ndarray:
        """Histograms of the rows with these scores, `stride` symbols apart, to be added up."""
        rows, _, _, coded, _ = contexts

        def work(first: int, last: int) -> np.ndarray:
            counts = np.zeros((HISTOGRAM_COPIES, *shape), dtype=np.uint32)
            starts = np.empty(2 * coded, dtype=np.int32)
            reach = (shape[1] - 1) // 2
            self._call(
                "histogram",
                symbols,
                stride,
                first,
                last,
                *contexts,
                reach,
                shape[0],
                starts,
                counts,
            )
            return counts

        parts = self.threads.split(len(rows), work)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def histogram(self, symbols: Symbols, model: ContextModel) -> Int64[np.ndarray, "table symbol"]:
        rows, columns = symbols.shape
        check_model(model, rows, columns)
        q = aligned(symbols, np.int16)
        copies = self._copies(q, columns, _contexts(model), model.frequencies.shape)
        return np.asarray(copies.sum(axis=0, dtype=np.int64))

    def rans_encode(self, symbols: Symbols, model: ContextModel, chunks: int) -> list[bytes]:
        """Threads share the chunks."""
        rows, columns = symbols.shape
        check_model(model, rows, columns)
        q, contexts = aligned(symbols, np.int16), _contexts(model)
        tables, size = model.frequencies.shape
        codings = np.empty((tables, size, 2), dtype=np.uint32)
        self._call("encoder_tables", aligned(model.frequencies, np.uint16), tables, size, codings)

        def work(first: int, last: int) -> bytes:
            coded = int((contexts[0][first:last] != SKIPPED_ROW).sum()) * model.column_scores.size
            code = np.empty(4 * LANES + 2 * coded, dtype=np.uint8)
            begin = self._call(
                "rans_encode",
                *(q, columns, first, last, *contexts, model.reach),
                *(codings, _starts(model), code, code.size),
            )
            return code[begin:].tobytes()

        return self.threads.each(chunk_bounds(rows, chunks), work)

    def rans_decode(self, codes: list[bytes], model: ContextModel, columns: int) -> Symbols:
        """Threads share the chunks."""
        rows = model.row_scores.size
        check_model(model, rows, columns)
        if not codes:
            raise PacketError("no code at all")
        contexts = _contexts(model)
        slots, wide = self._decoder_tables(model)
        symbols = np.empty((rows, columns), dtype=np.int16)

        def work(chunk: int, _: int) -> None:
            first, last = bounds[chunk]
            code = np.frombuffer(codes[chunk], dtype=np.uint8)
            self._call(
                "rans_decode",
                *(code, code.size, columns, first, last, *contexts, model.reach),
                *(slots, wide, _starts(model), symbols),
            )

        bounds = chunk_bounds(rows, len(codes))
        self.threads.each([(chunk, chunk + 1) for chunk in range(len(codes))], work)
        return symbols

    def _decoder_tables(self, model: ContextModel) -> tuple[np.ndarray, np.ndarray | None]:
        """What each slot decodes to, for the tables in use; symbols apart where they are many."""
        tables, size = model.frequencies.shape
        rows, scores, column_tables, coded, classes = _contexts(model)
        used = np.zeros(tables, dtype=np.uint8)
        self._call(
            "used_tables",
            *(rows, rows.size, scores, column_tables, coded, classes, tables),
            *(_starts(model), used),
        )
        slots = np.empty((tables, FREQUENCY_SUM), dtype=np.uint32)
        wide = None if size <= NARROW_SYMBOLS else np.empty(slots.shape, dtype=np.uint16)
        self._call(
            "decoder_tables",
            *(aligned(model.frequencies, np.uint16), tables, size, used, slots, wide),
        )
        return slots, wide

    def pack(self, symbols: Int16[np.ndarray, " value"], width: int, offset: int = 0) -> bytes:
        check_width(width)
        q = aligned(symbols, np.int16)
        data = np.empty((symbols.size * width + 7) // 8, dtype=np.uint8)

        def work(first: int, last: int) -> None:
            # 8 symbols are whole bytes
            begin, end = 8 * first, min(8 * last, q.size)
            self._call("pack", q[begin:end], end - begin, width, offset, data[first * width :])

        self.threads.split((symbols.size + 7) // 8, work)
        return data.tobytes()

    def unpack(self, data: bytes, count: int, width: int) -> Int16[np.ndarray, " value"]:
        check_packed(data, count, width)
        packed = np.frombuffer(data, dtype=np.uint8)
        symbols = np.empty(count, dtype=np.int16)

        def work(first: int, last: int) -> None:
            begin, end = 8 * first, min(8 * last, count)
            self._call("unpack", packed[first * width :], end - begin, width, symbols[begin:end])

        self.threads.split((count + 7) // 8, work)
        return symbols

    def write_hazards(
        self,
        counts: Int64[np.ndarray, "kind magnitude"],
        sizes: Integers,
        edges: Integers,
        writer: BitWriter,
    ) -> Hazards:
        kinds, reach = counts.shape[0], counts.shape[1] - 1
        above = np.ascontiguousarray(counts[:, ::-1].cumsum(1)[:, ::-1])
        hazards = np.empty((kinds, reach), dtype=np.int64)
        state = np.array([writer.low, writer.range, 0], dtype=np.int64)
        code = np.empty(HAZARD_BYTES * kinds * edges.size, dtype=np.uint8)
        written = self._call(
            "write_hazards",
            *(above, aligned(sizes, np.int64), kinds, reach, aligned(edges, np.int64)),
            *(edges.size, np.empty_like(edges), state, code, hazards),
        )
        writer.low, writer.range, carried = state.tolist()
        if carried:
            writer.carry()
        writer.code += code[:written].tobytes()
        return hazards

    def read_hazards(
        self, sizes: Integers, reach: int, edges: Integers, reader: BitReader
    ) -> Hazards:
        hazards = np.empty((sizes.size, reach), dtype=np.int64)
        state = np.array([reader.next, reader.range, reader.value], dtype=np.int64)
        code = np.frombuffer(reader.code or b"\0", dtype=np.uint8)
        self._call(
            "read_hazards",
            *(code, code.size, aligned(sizes, np.int64), sizes.size, reach),
            *(aligned(edges, np.int64), edges.size, np.empty_like(edges), state, hazards),
        )
        reader.next, reader.range, reader.value = state.tolist()
        return hazards

    def magnitude_shares(self, hazards: Hazards) -> Int64[np.ndarray, "kind magnitude"]:
        kinds, reach = hazards.shape
        shares = np.empty((kinds, reach + 1), dtype=np.int64)
        self._call("magnitude_shares", aligned(hazards, np.int64), kinds, reach, shares)
        return shares

    def twelve_bits(
        self, weights: Int64[np.ndarray, "table symbol"]
    ) -> UInt16[np.ndarray, "table symbol"]:
        frequencies = np.empty(weights.shape, dtype=np.uint16)
        self._call("twelve_bits", aligned(weights, np.int64), *weights.shape, frequencies)
        return frequencies

    def short_encode(
        self, symbols: Integers, table: UInt16[np.ndarray, " symbol"], state: int
    ) -> tuple[int, list[int]]:
        after = np.array([state], dtype=np.int64)
        words = np.empty(symbols.size, dtype=np.uint16)
        count = self._call(
            "short_encode",
            *(aligned(symbols, np.int64), symbols.size, _edges(table), after, words),
        )
        return int(after[0]), words[:count].tolist()

    def short_decode(
        self,
        words: UInt16[np.ndarray, " word"],
        count: int,
        table: UInt16[np.ndarray, " symbol"],
        state: int,
    ) -> tuple[Integers, int, int]:
        after = np.array([state], dtype=np.int64)
        symbols = np.empty(count, dtype=np.int64)
        taken = self._call(
            "short_decode",
            *(aligned(words, np.uint16), words.size, count, _edges(table), table.size),
            *(after, symbols),
        )
        return symbols, int(after[0]), taken


def _worth(rows: int, inner: int, columns: int) -> bool:
    """Whether a product is a matrix's in each run: numpy has another way with vectors."""
    return min(rows, inner, columns) > 1 and rows % RUN_ROWS != 1


def _edges(table: UInt16[np.ndarray, " symbol"]) -> Integers:
    """Where each symbol's slots begin, and where the last one's end."""
    edges = np.zeros(table.size + 1, dtype=np.int64)
    np.cumsum(table, out=edges[1:])
    return edges


def _unit(block: int) -> np.float32:
    """What makes a transform of `block` columns orthonormal."""
    return np.float32(1 / np.sqrt(block))


def _contexts(model: ContextModel) -> Contexts:
    """The model's contexts, as the C functions take them."""
    rows, scores, tables = (
        aligned(array, np.int16)
        for array in (model.row_scores, model.column_scores, model.column_tables)
    )
    return rows, scores, tables, scores.size, model.classes


def _starts(model: ContextModel) -> Int32[np.ndarray, " coded"]:
    """Scratch: where each column's table begins, and where each symbol is."""
    return np.empty(2 * model.column_scores.size, dtype=np.int32)


# Which form of the hot loops this machine has.


def load_kernels(threads: int = 1) -> Kernels:
    """The C form where it was built, else the numpy form, with one warning in a process.

    `CUTLAYER_PORTABLE=1` in the environment asks for the numpy form, which never uses threads.
    """
    if os.environ.get("CUTLAYER_PORTABLE") == "1":
        return Portable()
    try:
        return Native(threads)
    except OSError as error:
        _warn(str(error))
        return Portable()


@cache
def _warn(reason: str) -> None:
    """Once for each reason, of which a process has one."""
    warnings.warn(
        f"the codec runs without its C part ({reason}): its bytes are the same, but it is many "
        "times slower. Install a C compiler (for example `apt install gcc`), then reinstall "
        "cutlayer.",
        RuntimeWarning,
        stacklevel=3,
    )
