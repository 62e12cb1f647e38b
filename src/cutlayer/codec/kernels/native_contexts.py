"""Two-way contexts in C: scores, classes, tables and their bytes, in a few calls of the library.

Gives what `two_way.described` gives, to the byte. Knows which arrays the library's functions hand
to each other, and how large they must be.
"""

from collections.abc import Callable
from itertools import accumulate, pairwise

import numpy as np

from cutlayer.codec.kernels.kernels import (
    LARGEST_CLASSES,
    LARGEST_REACH,
    SAMPLE_SYMBOLS,
    SCORE_SECTIONS,
    SKIPPED_ROW,
    ContextModel,
    Described,
    Symbols,
    SymbolSums,
)
from cutlayer.codec.kernels.library import Library

# scores of rows and columns, the columns' tables, how many columns are coded, classes
Contexts = tuple[np.ndarray, np.ndarray, np.ndarray, int, int]
# some copies of a histogram, to be added up, of rows so many symbols apart: tables and their size
Copies = Callable[[np.ndarray, int, Contexts, tuple[int, int]], np.ndarray]

# scratch and room for sections, beyond what rows and columns take
SPARE_NUMBERS, SPARE_BYTES = 1 << 14, (1 << 17) + (1 << 14)


def described(symbols: Symbols, sums: SymbolSums, copies: Copies, library: Library) -> Described:
    """What is said of symbols that are not all zero beside their code."""
    rows, columns = symbols.shape
    reach = min(sums.largest, LARGEST_REACH)
    numbers = np.empty(8 * (rows + columns) + SPARE_NUMBERS, dtype=np.int64)
    row_scores = np.empty(rows, dtype=np.int16)
    scores, skews, tables = np.empty((3, columns), dtype=np.int16)
    layout = row_scores, scores, skews, tables
    kinds = library.call(
        "layout", sums.rows, rows, sums.columns, sums.signs, columns, numbers, *layout
    )
    sets = 2 * ((int(skews.max()) + 1) // 2) + 1
    live_rows, live_columns = int(np.count_nonzero(sums.rows)), np.flatnonzero(sums.columns)
    coded = int(live_columns[-1]) + 1

    def counts(every: int) -> tuple[np.ndarray, int, int, int, int]:
        """Of each such row: a histogram for the library."""
        shape = 1 + sets * kinds, 2 * reach + 1
        some = row_scores if every == 1 else row_scores[::every].copy()
        found = copies(symbols, every * columns, (some, scores, tables, coded, kinds), shape)
        return found, len(found), shape[0], kinds, reach

    every = max(symbols.size // SAMPLE_SYMBOLS, 1)
    if every == 1 or (row_scores[::every] != SKIPPED_ROW).any():
        kinds = library.call(
            "refine", *counts(every), sums.rows, rows, sums.columns, columns, *layout
        )
    size = 2 * reach + 1
    frequencies = np.empty((1 + sets * min(kinds, LARGEST_CLASSES)) * size, dtype=np.uint16)
    code = np.empty(SPARE_BYTES + 2 * rows + 4 * columns, dtype=np.uint8)
    found = np.empty(8, dtype=np.int64)
    library.call(
        "write_model",
        *(*counts(1), sums.largest, rows, columns, *layout, numbers, frequencies, code, found),
    )
    *sizes, classes, near, beyond = found.tolist()
    parts = [code[first:last].tobytes() for first, last in pairwise(accumulate(sizes, initial=0))]
    shape = 1 + sets * classes, 2 * near + 1
    chosen = frequencies[: shape[0] * shape[1]].reshape(shape)
    return Described(
        dict(zip(SCORE_SECTIONS, parts, strict=False)),
        parts[-1],
        _excesses(symbols, near, beyond, library) if sums.largest > near else b"",
        ContextModel(row_scores, scores[:coded], tables[:coded], classes, chosen),
        live_rows * live_columns.size,
    )


def _excesses(symbols: Symbols, reach: int, count: int, library: Library) -> bytes:
    """`two_way.write_excesses` of the symbols at or beyond the reach."""
    excesses = np.empty(count, dtype=np.int64)
    section = np.empty(4 + 3 * count, dtype=np.uint8)
    size = library.call("write_excesses", symbols, symbols.size, reach, count, excesses, section)
    return section[:size].tobytes()
