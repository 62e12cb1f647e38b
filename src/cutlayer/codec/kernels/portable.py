"""The hot loops in numpy, for machines without the C part: the same bytes, several times slower.

Each method is the shortest plain form of its definition in `kernels.py`; the tests hold the C code
against it. The one loop that numpy cannot take at once is the entropy coder: there a step codes a
symbol of every lane of every chunk.

Source of the coder: J. Duda, "Asymmetric numeral systems", arXiv:1311.2540; the interleaving is F.
Giesen's, arXiv:1402.3392.
"""

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate, pairwise
from math import asin, isqrt, log2, sin
from typing import TypeVar, final

import numpy as np
from jaxtyping import Bool, Float32, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64

from cutlayer.codec.kernels.adaptive_bits import BitReader, BitWriter, Number
from cutlayer.codec.kernels.kernels import (
    FREQUENCY_SUM,
    HAZARD_ONE,
    LANES,
    MOST_SYMBOLS,
    SKIPPED_ROW,
    ContextModel,
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
from cutlayer.codec.kernels.threads import Threads, chunk_bounds, turned, turned_back
from cutlayer.errors import PacketError

LARGEST = np.float32(32767)
HALF = np.float32(0.5)
LOWEST_STATE = np.uint64(1 << 16)
WORD_BITS = np.uint64(16)
FREQUENCY_BITS = np.uint64(12)
# places on the hazards' scale
PLACE = 1 << 16
FINEST = 1024
# kinds of differences that are told apart: those of the first hazards, of all others
NUMBERS = 8
# (class, group, its first magnitude, last + 1, cells, predicted cell) -> cell
Chooser = Callable[[int, int, int, int, int, int], int]
T = TypeVar("T")


@final
class Portable(Kernels):
    """See `Kernels`."""

    def turn(
        self,
        values: Float32[np.ndarray, "row width"],
        mean: Float32[np.ndarray, " width"] | None,
        basis: Float32[np.ndarray, "width component"],
    ) -> Float32[np.ndarray, "row component"]:
        return turned(values, mean, basis, Threads(1).each)

    def turn_back(
        self,
        values: Float32[np.ndarray, "row some"],
        mean: Float32[np.ndarray, " width"] | None,
        basis: Float32[np.ndarray, "width component"],
    ) -> Float32[np.ndarray, "row width"]:
        return turned_back(values, mean, basis, Threads(1).each)

    def start(self, work: Callable[[], T]) -> Callable[[], T]:
        return Threads(1).start(work)

    def top_k(
        self, values: Float32[np.ndarray, " value"], sizes: Sizes, counts: Sizes
    ) -> UInt8[np.ndarray, " value"]:
        check_segments(values.size, sizes)
        magnitudes = np.abs(values)
        kept = np.zeros(values.size, dtype=np.uint8)
        for place, count in zip(_segments(sizes), counts.tolist(), strict=True):
            x, marks = magnitudes[place], kept[place]
            if count <= 0 or count >= x.size:
                marks[:] = count > 0
                continue
            threshold = np.partition(x, x.size - count)[x.size - count]
            marks[:] = x > threshold
            marks[np.flatnonzero(x == threshold)[: count - int(marks.sum())]] = 1
        return kept

    def largest(self, values: Float32[np.ndarray, "..."]) -> float:
        if values.size == 0:
            return 0.0
        # a NaN passes through both
        largest = max(float(values.max()), -float(values.min()))
        return largest if np.isfinite(largest) else np.inf

    def extremes(
        self, values: Float32[np.ndarray, " value"], kept: UInt8[np.ndarray, " value"], sizes: Sizes
    ) -> Float32[np.ndarray, "2 segment"]:
        check_segments(values.size, sizes)
        found = np.zeros((2, sizes.size), dtype=np.float32)
        for segment, place in enumerate(_segments(sizes)):
            x = np.abs(values[place][kept[place] != 0])
            if x.size:
                found[:, segment] = x.min(), x.max()
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
        spans = extremes[1] - extremes[0]
        spans[spans == 0] = 1
        low, span = np.repeat(extremes[0], sizes), np.repeat(spans, sizes)
        noise = (mix(values.size, seed) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
        # what is not kept may be far outside; the clips make its conversion defined
        with np.errstate(over="ignore"):
            at = (np.abs(values) - low) / span * np.float32(levels) + noise
        at = np.where(at > 0, at, np.float32(0))
        at = np.where(at < np.float32(levels), at, np.float32(levels))
        return _signed(np.where(kept != 0, at.astype(np.int32) + 1, 0).astype(np.int32), values < 0)

    def dequantise_points(
        self,
        symbols: Int16[np.ndarray, " value"],
        sizes: Sizes,
        points: Float32[np.ndarray, "segment point"],
    ) -> Float32[np.ndarray, " value"]:
        check_segments(symbols.size, sizes)
        magnitudes = np.abs(symbols.astype(np.int32))
        if magnitudes.max(initial=0) > points.shape[1]:
            raise PacketError("a symbol is larger than the number of points")
        with_zero = np.concatenate([np.zeros((sizes.size, 1), np.float32), points], axis=1)
        segment = np.repeat(np.arange(sizes.size), sizes)
        return _with_signs(with_zero[segment, magnitudes], symbols)

    def quantise_dead_zone(
        self, values: Float32[np.ndarray, " value"], step: np.float32, rounding: np.float32
    ) -> tuple[Int16[np.ndarray, " value"], Moments]:
        with np.errstate(over="ignore"):
            sizes = np.abs(values) * (np.float32(1) / step)
        sizes = np.where(sizes < LARGEST, sizes, LARGEST)
        levels = (sizes + rounding).astype(np.int32)
        # |x| / step - level is exact in float32, so the difference of the parts is its floor
        excess = (sizes * np.float32(4096)).astype(np.int32) - levels * 4096
        one, more = levels == 1, levels > 1
        moments = Moments(
            ones=int(one.sum()),
            ones_excess=int(excess[one].sum(dtype=np.int64)),
            more=int(more.sum()),
            more_excess=int(excess[more].sum(dtype=np.int64)),
        )
        return _signed(levels, values < 0), moments

    def dequantise_dead_zone(
        self,
        symbols: Int16[np.ndarray, " value"],
        step: np.float32,
        shift_one: np.float32,
        shift_more: np.float32,
    ) -> Float32[np.ndarray, " value"]:
        sizes = np.abs(symbols.astype(np.float32))
        return _with_signs((sizes + np.where(sizes > 1, shift_more, shift_one)) * step, symbols)

    def quantise_rows(
        self, values: Float32[np.ndarray, "row column"], bits: int, block: int = 1
    ) -> tuple[Symbols, Float32[np.ndarray, " row"]]:
        check_bits(bits)
        if block != 1:
            values = self.hadamard(values, block, inverse=False)
        scales = np.abs(values).max(axis=1, initial=0).astype(np.float32)
        with np.errstate(divide="ignore", over="ignore"):
            ratios = np.float32(2 ** (bits - 1) - 1) / scales
        zero = ~np.isfinite(ratios)
        scales[zero] = 0
        ratios[zero] = 0
        if bits > 2:
            return np.rint(values * ratios[:, None]).astype(np.int16), scales
        large = (np.abs(values) > (scales * HALF)[:, None]) & ~zero[:, None]
        return _signed(1 + large.astype(np.int32), (values < 0) & ~zero[:, None]), scales

    def dequantise_rows(
        self, symbols: Symbols, scales: Float32[np.ndarray, " row"], bits: int, block: int = 1
    ) -> Float32[np.ndarray, "row column"]:
        check_bits(bits)
        if block != 1:
            turned = self.dequantise_rows(symbols, scales, bits)
            return self.hadamard(turned, block, inverse=True)
        if bits > 2:
            steps = scales / np.float32(2 ** (bits - 1) - 1)
            return symbols.astype(np.float32) * steps[:, None]
        sizes = np.abs(symbols.astype(np.float32))
        return _with_signs((sizes - HALF) * (scales * HALF)[:, None], symbols)

    def hadamard(
        self, values: Float32[np.ndarray, "row column"], block: int, *, inverse: bool
    ) -> Float32[np.ndarray, "row column"]:
        rows, columns = values.shape
        check_block(columns, block)
        odd = mix(columns, 0) & np.uint32(1)
        signs = np.where(odd, np.float32(-1), np.float32(1))
        out = values.copy() if inverse else values * signs
        half = 1
        while half < block:
            pairs = out.reshape(rows, columns // (2 * half), 2, half)
            a, b = pairs[:, :, 0], pairs[:, :, 1]
            out = np.stack([a + b, a - b], axis=2).reshape(rows, columns)
            half *= 2
        out = out * np.float32(1 / np.sqrt(block))
        return out * signs if inverse else out

    def sums(self, symbols: Symbols) -> SymbolSums:
        sizes = np.abs(symbols.astype(np.int32))
        return SymbolSums(
            rows=sizes.sum(axis=1, dtype=np.int64),
            columns=sizes.sum(axis=0, dtype=np.int64),
            signs=np.sign(symbols).sum(axis=0, dtype=np.int64),
            largest=int(sizes.max(initial=0)),
        )

    def histogram(self, symbols: Symbols, model: ContextModel) -> Int64[np.ndarray, "table symbol"]:
        check_model(model, *symbols.shape)
        places = symbol_places(symbols, model, 0, symbols.shape[0])
        counts = np.bincount(places, minlength=model.frequencies.size)
        return counts.astype(np.int64).reshape(model.frequencies.shape)

    def rans_encode(self, symbols: Symbols, model: ContextModel, chunks: int) -> list[bytes]:
        check_model(model, *symbols.shape)
        table = model.frequencies.astype(np.uint64)
        # a frequency of 4096 from 0 on leaves a state as it is: for lanes that have ended
        frequencies = np.append(table.ravel(), np.uint64(FREQUENCY_SUM))
        starts = np.append(
            (np.cumsum(table, axis=1, dtype=np.uint64) - table).ravel(), np.uint64(0)
        )
        bounds = chunk_bounds(symbols.shape[0], chunks)
        steps = _steps([symbol_places(symbols, model, *bound) for bound in bounds], table.size)
        states = np.full(chunks * LANES, LOWEST_STATE)
        words, lanes = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int64)]
        # backwards, since the decoder runs forwards
        for step in steps[::-1]:
            frequency = frequencies[step]
            # a lane that would reach 2^32 drops its low word first
            full = (states >> np.uint64(20) >= frequency).nonzero()[0]
            words.append(states[full])
            lanes.append(full)
            states[full] >>= WORD_BITS
            # x <- (x // f) 2^12 + x % f + start
            states += states // frequency * (np.uint64(FREQUENCY_SUM) - frequency) + starts[step]
        word, owner = np.concatenate(words[::-1]), np.concatenate(lanes[::-1]) // LANES
        return [
            states[chunk * LANES : (chunk + 1) * LANES].astype("<u4").tobytes()
            + word[owner == chunk].astype("<u2").tobytes()
            for chunk in range(chunks)
        ]

    def rans_decode(self, codes: list[bytes], model: ContextModel, columns: int) -> Symbols:
        rows, coded = model.row_scores.size, model.column_scores.size
        check_model(model, rows, columns)
        if not codes:
            raise PacketError("no code at all")
        chunks = [table_indices(model, *bound) for bound in chunk_bounds(rows, len(codes))]
        needed, numbers = np.unique(
            np.concatenate([chunk.ravel() for chunk in chunks]), return_inverse=True
        )
        edges = np.cumsum([chunk.size for chunk in chunks])[:-1]
        found = _decoded(codes, model.frequencies[needed], np.split(numbers.ravel(), edges))
        symbols = np.zeros((rows, columns), dtype=np.int16)
        kept = model.row_scores != SKIPPED_ROW
        symbols[kept, :coded] = (found - model.reach).reshape(-1, coded) if coded else 0
        return symbols

    def pack(self, symbols: Int16[np.ndarray, " value"], width: int, offset: int = 0) -> bytes:
        check_width(width)
        low_first = (symbols + np.int16(offset)).astype("<i2").view(np.uint8).reshape(-1, 2)
        bits = np.unpackbits(low_first, axis=1, bitorder="little", count=width)
        return np.packbits(bits, bitorder="little").tobytes()

    def unpack(self, data: bytes, count: int, width: int) -> Int16[np.ndarray, " value"]:
        check_packed(data, count, width)
        packed = np.frombuffer(data, dtype=np.uint8)
        bits = np.unpackbits(packed, count=count * width, bitorder="little").reshape(count, width)
        low_first = np.packbits(bits, axis=1, bitorder="little")
        wide = np.zeros((count, 2), dtype=np.uint8)
        wide[:, : low_first.shape[1]] = low_first
        return wide.view("<i2").reshape(count).astype(np.int16)

    def write_hazards(
        self,
        counts: Int64[np.ndarray, "kind magnitude"],
        sizes: Integers,
        edges: Integers,
        writer: BitWriter,
    ) -> Hazards:
        numbers = [Number(8) for _ in range(NUMBERS)]
        # how many magnitudes are at least j, in Python's integers since they are read one by one
        above: list[list[int]] = counts[:, ::-1].cumsum(1)[:, ::-1].tolist()

        def choose(kind: int, group: int, first: int, last: int, cells: int, predicted: int) -> int:
            stay = above[kind][first] - above[kind][last]
            go = sum(above[kind][first + 1 : last + 1])
            cell = best_cell(stay, go, cells, predicted)
            numbers[min(group, NUMBERS - 1)].put_signed(cell - predicted, writer)
            return cell

        return _walk(sizes.tolist(), counts.shape[1] - 1, edges.tolist(), choose)

    def read_hazards(
        self, sizes: Integers, reach: int, edges: Integers, reader: BitReader
    ) -> Hazards:
        numbers = [Number(8) for _ in range(NUMBERS)]

        def choose(
            _kind: int, group: int, _first: int, _last: int, cells: int, predicted: int
        ) -> int:
            cell = predicted + numbers[min(group, NUMBERS - 1)].get_signed(reader)
            if not 0 <= cell <= cells:
                raise PacketError("tables: a hazard that is no probability")
            return cell

        return _walk(sizes.tolist(), reach, edges.tolist(), choose)

    def magnitude_shares(self, hazards: Hazards) -> Int64[np.ndarray, "kind magnitude"]:
        kinds, reach = hazards.shape
        shares = np.zeros((kinds, reach + 1), dtype=np.int64)
        left = np.full(kinds, HAZARD_ONE, dtype=np.int64)
        for level in range(reach):
            value = hazards[:, level]
            on = left * value >> 24
            on = np.where((left > 0) & (value > 0), np.maximum(on, 1), 0)
            stays = (left > 0) & (value < HAZARD_ONE)
            shares[:, level] = np.where(stays, np.maximum(left - on, 1), 0)
            left = on
        shares[:, reach] = left
        return shares

    def twelve_bits(
        self, weights: Int64[np.ndarray, "table symbol"]
    ) -> UInt16[np.ndarray, "table symbol"]:
        dropped = 32 - int(FREQUENCY_BITS)
        scaled = np.maximum((weights + (1 << dropped - 1)) >> dropped, weights > 0)
        tables = np.arange(len(weights))
        # the largest has at least 4096 / 125, those raised to 1 are at most 124: a few rounds do
        while (missing := FREQUENCY_SUM - scaled.sum(1)).any():
            largest = scaled.argmax(1)
            room = scaled[tables, largest] // 2
            scaled[tables, largest] += np.maximum(missing, -room)
        return np.asarray(scaled.astype(np.uint16))

    def short_encode(
        self, symbols: Integers, table: UInt16[np.ndarray, " symbol"], state: int
    ) -> tuple[int, list[int]]:
        frequencies = table.tolist()
        starts = list(accumulate(frequencies, initial=0))
        words = []
        for symbol in reversed(symbols.tolist()):
            frequency = frequencies[symbol]
            if state >> 20 >= frequency:
                words.append(state & 0xFFFF)
                state >>= 16
            # x <- (x // f) 2^12 + x % f + start
            state += state // frequency * (FREQUENCY_SUM - frequency) + starts[symbol]
        return state, words

    def short_decode(
        self,
        words: UInt16[np.ndarray, " word"],
        count: int,
        table: UInt16[np.ndarray, " symbol"],
        state: int,
    ) -> tuple[Integers, int, int]:
        frequencies = table.tolist()
        starts = list(accumulate(frequencies, initial=0))
        symbols, taken = np.zeros(count, dtype=np.int64), 0
        for place in range(count):
            slot = state & FREQUENCY_SUM - 1
            symbol = bisect_right(starts, slot) - 1
            symbols[place] = symbol
            state = frequencies[symbol] * (state >> 12) + slot - starts[symbol]
            if state < LOWEST_STATE:
                if taken == len(words):
                    raise PacketError("the code ends before the symbols do")
                state, taken = state << 16 | int(words[taken]), taken + 1
        return symbols, state, taken


def bias(x: UInt32[np.ndarray, " i"]) -> UInt32[np.ndarray, " i"]:
    """32 bits mixed; see `Kernels`."""
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x7FEB352D)
    x = (x ^ x >> np.uint32(15)) * np.uint32(0x846CA68B)
    return np.asarray(x ^ x >> np.uint32(16))


def mix_keys(seed: int) -> tuple[int, int]:
    """The keys a and b of a seed; see `Kernels`."""
    low, high = np.array([[seed & 0xFFFFFFFF], [seed >> 32 & 0xFFFFFFFF]], dtype=np.uint32)
    a = bias(low)
    return int(a[0]), int(bias(high + a)[0])


def mix(count: int, seed: int) -> UInt32[np.ndarray, " i"]:
    """The mix of 0, 1, ... count - 1 and the seed; see `Kernels`."""
    a, b = (np.uint32(key) for key in mix_keys(seed))
    x = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9) + a
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x7FEB352D)
    x = ((x ^ x >> np.uint32(15)) + b) * np.uint32(0x846CA68B)
    return np.asarray(x ^ x >> np.uint32(16))


def _segments(sizes: Sizes) -> list[slice]:
    """Each segment's place."""
    edges = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    return [slice(first, last) for first, last in pairwise(edges)]


def _signed(
    sizes: Int32[np.ndarray, "*shape"], negative: Bool[np.ndarray, "*shape"]
) -> Int16[np.ndarray, "*shape"]:
    return np.where(negative, -sizes, sizes).astype(np.int16)


def _with_signs(
    magnitudes: Float32[np.ndarray, "*shape"], symbols: Int16[np.ndarray, "*shape"]
) -> Float32[np.ndarray, "*shape"]:
    """The magnitudes with the symbols' signs, 0.0 where the symbol is 0."""
    magnitudes[symbols == 0] = 0
    return np.where(symbols < 0, -magnitudes, magnitudes)


def table_indices(model: ContextModel, first: int, last: int) -> Int64[np.ndarray, "some coded"]:
    """The table of each symbol in the rows first..last - 1 that are coded."""
    scores = model.row_scores[first:last]
    rows = scores[scores != SKIPPED_ROW].astype(np.int64)
    classes = np.clip(rows[:, None] + model.column_scores, 0, model.classes - 1)
    return np.asarray(model.column_tables + classes)


def symbol_places(
    symbols: Symbols, model: ContextModel, first: int, last: int
) -> Int64[np.ndarray, " place"]:
    """Where in the flat `model.frequencies` each coded symbol of the rows is."""
    coded = model.row_scores[first:last] != SKIPPED_ROW
    chosen = symbols[first:last][coded, : model.column_scores.size].astype(np.int64)
    index = np.clip(chosen, -model.reach, model.reach) + model.reach
    flat = table_indices(model, first, last) * model.frequencies.shape[1] + index
    return np.asarray(flat).ravel()


def _steps(chunks: list[Int64[np.ndarray, " _"]], padding: int) -> Int64[np.ndarray, "step lane"]:
    """Chunks side by side, LANES columns each; `padding` where one has ended."""
    steps = -(-max(chunk.size for chunk in chunks) // LANES)
    grid = np.full((len(chunks), steps * LANES), padding, dtype=np.int64)
    for row, chunk in zip(grid, chunks, strict=True):
        row[: chunk.size] = chunk
    lanes = grid.reshape(len(chunks), steps, LANES).transpose(1, 0, 2)
    return lanes.reshape(steps, len(chunks) * LANES)


def _decoded(
    codes: list[bytes],
    frequencies: UInt16[np.ndarray, "table symbol"],
    chunks: list[Int64[np.ndarray, " _"]],
) -> Int64[np.ndarray, " coded"]:
    """The symbols' indices, given each one's table."""
    if (frequencies.sum(axis=1, dtype=np.int64) != FREQUENCY_SUM).any():
        raise PacketError("a table of frequencies that is needed does not sum to 4096")
    symbol, frequency, offset = _slots(frequencies)
    steps = _steps(chunks, len(frequencies)) * FREQUENCY_SUM
    states, words, ends, taken = _split(codes)
    found = np.empty(steps.shape, dtype=np.int64)
    for step, row in zip(steps, found, strict=True):
        slot = step + (states & np.uint64(FREQUENCY_SUM - 1)).astype(np.int64)
        row[:] = symbol[slot]
        # x <- f (x >> 12) + slot - start: at least 16, so one word always brings it back
        states = frequency[slot] * (states >> FREQUENCY_BITS) + offset[slot]
        short = (states < LOWEST_STATE).reshape(len(codes), LANES)
        states, taken = _refilled(states, short, words, taken)
        if (taken > ends).any():
            raise PacketError("the code ends before the symbols do")
    if (taken != ends).any() or (states != LOWEST_STATE).any():
        raise PacketError("the code does not end where the symbols do")
    lanes = found.reshape(len(steps), len(codes), LANES).transpose(1, 0, 2).reshape(len(codes), -1)
    return np.concatenate([row[: chunk.size] for row, chunk in zip(lanes, chunks, strict=True)])


def _slots(
    frequencies: UInt16[np.ndarray, "table symbol"],
) -> tuple[Int64[np.ndarray, " slot"], UInt64[np.ndarray, " slot"], UInt64[np.ndarray, " slot"]]:
    """What each slot of each table stands for: the symbol, its frequency, the place within it.

    One more table of a single symbol, whose slots leave a state as it is.
    """
    table = frequencies.astype(np.int64).ravel()
    symbol = np.repeat(np.tile(np.arange(frequencies.shape[1]), len(frequencies)), table)
    starts = np.repeat(np.cumsum(table) - table, table)
    own = np.arange(FREQUENCY_SUM)
    return (
        np.append(symbol, np.zeros_like(own)),
        np.append(np.repeat(table, table), np.full_like(own, FREQUENCY_SUM)).astype(np.uint64),
        np.append(np.arange(symbol.size) - starts, own).astype(np.uint64),
    )


def _split(
    codes: list[bytes],
) -> tuple[
    UInt64[np.ndarray, " lane"],
    UInt64[np.ndarray, " word"],
    Int64[np.ndarray, " chunk"],
    Int64[np.ndarray, " chunk"],
]:
    """All states; all words and one more; where each chunk's words end and begin."""
    head = 4 * LANES
    for code in codes:
        if len(code) < head or len(code) % 2:
            raise PacketError(f"{len(code)} bytes are no code of {LANES} lanes")
    states = np.frombuffer(b"".join(code[:head] for code in codes), dtype="<u4")
    if (states < LOWEST_STATE).any():
        raise PacketError(f"a lane begins below {LOWEST_STATE}")
    words = np.frombuffer(b"".join(code[head:] for code in codes) + b"\0\0", dtype="<u2")
    lengths = np.array([(len(code) - head) // 2 for code in codes], dtype=np.int64)
    ends = np.cumsum(lengths)
    return states.astype(np.uint64), words.astype(np.uint64), ends, ends - lengths


def _refilled(
    states: UInt64[np.ndarray, " lane"],
    short: Bool[np.ndarray, "chunk member"],
    words: UInt64[np.ndarray, " word"],
    taken: Int64[np.ndarray, " chunk"],
) -> tuple[UInt64[np.ndarray, " lane"], Int64[np.ndarray, " chunk"]]:
    """Each lane that is short takes the next word of its chunk."""
    after = taken[:, None] + np.cumsum(short, axis=1)
    # beyond the last word, which the caller finds out, any word will do
    word = words[np.minimum(after - 1, words.size - 1)].ravel()
    refilled = np.where(short.ravel(), states << WORD_BITS | word, states)
    return refilled, after[:, -1]


def _walk(sizes: list[int], reach: int, edges: list[int], choose: Chooser) -> Hazards:
    hazards = np.zeros((len(sizes), reach), dtype=np.int64)
    firsts = [edge for edge in edges if edge < reach]
    groups = list(pairwise((*firsts, reach)))
    # the place of each group's hazard in the class before
    places = [PLACE // 2] * len(groups)
    for kind, size in enumerate(sizes):
        left = min(size, MOST_SYMBOLS)
        for group, (first, last) in enumerate(groups):
            if not left:
                break
            cells = min(2 + isqrt(left), FINEST)
            predicted = (places[group] * cells + PLACE // 2) // PLACE
            cell = choose(kind, group, first, last, cells, predicted)
            places[group] = cell * PLACE // cells
            value = hazard(cell, cells)
            hazards[kind, first:last] = value
            for _ in range(last - first):
                left = -(-left * value // HAZARD_ONE)
    return hazards


def hazard(cell: int, cells: int) -> int:
    """The probability [2^-24] of a cell on the scale; see `Kernels.write_hazards`."""
    if cell in (0, cells):
        return HAZARD_ONE if cell else 0
    place = cell * PLACE // cells
    return max(1, place * place * (3 * PLACE - 2 * place) >> 24)


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
    return -go * log2(value / HAZARD_ONE) - stay * log2(1 - value / HAZARD_ONE)
