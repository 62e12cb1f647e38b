"""The entropy coder of `portable.py`: one step codes a symbol of every lane of every chunk.

Knows symbols, context models and codes; the format is that of `Kernels.rans_encode`.
Source: J. Duda, "Asymmetric numeral systems", arXiv:1311.2540; the interleaving is F. Giesen's,
arXiv:1402.3392.
"""

import numpy as np
from jaxtyping import Bool, Int16, Int64, UInt16, UInt64

from cutlayer.codec.kernels.kernels import (
    FREQUENCY_SUM,
    LANES,
    SKIPPED_ROW,
    ContextModel,
    check_model,
    chunk_bounds,
)
from cutlayer.errors import PacketError

LOWEST_STATE = np.uint64(1 << 16)
WORD_BITS = np.uint64(16)
FREQUENCY_BITS = np.uint64(12)


def tables(model: ContextModel, first: int, last: int) -> Int64[np.ndarray, "some coded"]:
    """The table of each symbol in the rows first..last - 1 that are coded."""
    scores = model.row_scores[first:last]
    rows = scores[scores != SKIPPED_ROW].astype(np.int64)
    classes = np.clip(rows[:, None] + model.column_scores, 0, model.classes - 1)
    return np.asarray(model.column_tables + classes)


def places(
    symbols: Int16[np.ndarray, "row column"], model: ContextModel, first: int, last: int
) -> Int64[np.ndarray, " place"]:
    """Where in the flat `model.frequencies` each coded symbol of the rows is."""
    coded = model.row_scores[first:last] != SKIPPED_ROW
    chosen = symbols[first:last][coded, : model.column_scores.size].astype(np.int64)
    index = np.clip(chosen, -model.reach, model.reach) + model.reach
    flat = tables(model, first, last) * model.frequencies.shape[1] + index
    return np.asarray(flat).ravel()


def _steps(chunks: list[Int64[np.ndarray, " _"]], padding: int) -> Int64[np.ndarray, "step lane"]:
    """Chunks side by side, LANES columns each; `padding` where one has ended."""
    steps = -(-max(chunk.size for chunk in chunks) // LANES)
    grid = np.full((len(chunks), steps * LANES), padding, dtype=np.int64)
    for row, chunk in zip(grid, chunks, strict=True):
        row[: chunk.size] = chunk
    lanes = grid.reshape(len(chunks), steps, LANES).transpose(1, 0, 2)
    return lanes.reshape(steps, len(chunks) * LANES)


def encode(
    symbols: Int16[np.ndarray, "row column"], model: ContextModel, chunks: int
) -> list[bytes]:
    """See `Kernels.rans_encode`."""
    check_model(model, *symbols.shape)
    table = model.frequencies.astype(np.uint64)
    # a frequency of 4096 from 0 on leaves a state as it is: for lanes that have ended
    frequencies = np.append(table.ravel(), np.uint64(FREQUENCY_SUM))
    starts = np.append((np.cumsum(table, axis=1, dtype=np.uint64) - table).ravel(), np.uint64(0))
    bounds = chunk_bounds(symbols.shape[0], chunks)
    steps = _steps([places(symbols, model, *bound) for bound in bounds], table.size)
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


def decode(
    codes: list[bytes], model: ContextModel, columns: int
) -> Int16[np.ndarray, "row column"]:
    """See `Kernels.rans_decode`."""
    rows, coded = model.row_scores.size, model.column_scores.size
    check_model(model, rows, columns)
    if not codes:
        raise PacketError("no code at all")
    chunks = [tables(model, *bound) for bound in chunk_bounds(rows, len(codes))]
    needed, numbers = np.unique(
        np.concatenate([chunk.ravel() for chunk in chunks]), return_inverse=True
    )
    edges = np.cumsum([chunk.size for chunk in chunks])[:-1]
    found = _decoded(codes, model.frequencies[needed], np.split(numbers.ravel(), edges))
    symbols = np.zeros((rows, columns), dtype=np.int16)
    kept = model.row_scores != SKIPPED_ROW
    symbols[kept, :coded] = (found - model.reach).reshape(-1, coded) if coded else 0
    return symbols


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
