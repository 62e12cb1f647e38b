"""Two-way contexts: each symbol is coded by the table that its row's and its column's score choose.

Rows differ in size (tokens with a large gradient), columns too (strong channels), and the product
of the two scales says nearly all about how a symbol is distributed. So the side information is a
score for each row and column, a sign skew for columns that prefer a sign, and a few dozen tables
(`tables.py` has both); rows and columns of zeros alone cost next to nothing. Every choice that
the encoder makes is in the section "model"; long series of scores have sections of their own.

Prefer it always, but where 10 ns a symbol are too slow. Knows nothing of what symbols mean.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, final

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt16

from cutlayer.codec.entropy import (
    EntropyCoder,
    GolombCode,
    Sections,
    decode_gaps,
    encode_gaps,
    refuse_other_sections,
    signed_entropy,
)
from cutlayer.codec.kernels.adaptive_bits import BitReader, BitWriter, Number
from cutlayer.codec.kernels.kernels import (
    LARGEST_CLASSES,
    LARGEST_REACH,
    SAMPLE_SYMBOLS,
    SCORE_SECTIONS,
    SKIPPED_ROW,
    ContextModel,
    Described,
    Integers,
    Kernels,
    Symbols,
    SymbolSums,
)
from cutlayer.codec.tables import (
    HAZARD_EDGES,
    LARGEST_SCORE,
    LARGEST_SPREAD,
    SIGN_ONE,
    Scores,
    SeriesReader,
    ShortDecoder,
    class_sizes,
    frequency_tables,
    log_scale,
    majority_share,
    write_scores,
)
from cutlayer.errors import PacketError

# columns with so large a share |positive - negative| / non-zero have a skew of 1, 2, 3
_SKEW_EDGES = (0.2, 0.5, 0.8)
_MOST_LEVELS = len(_SKEW_EDGES)
# of a score [octaves]
_FINEST_STEP, _COARSEST_STEP = 0.25, 1.0
FINEST_CLASSES = 96
# a code of its own, 128 bytes longer, for each so many symbols: what threads share
_CHUNK_SYMBOLS = 1 << 20
_MOST_CHUNKS = 64
# what a code takes beyond its symbols' entropy: 32 lanes of 24 bits
_CODE_BYTES = 96
# classes at the ends that hold no more non-zero symbols are merged
_FEW = 8
# up to it no symbol is an escape
_SMALL_REACH = 16


@dataclass(frozen=True, eq=False)
class Contexts:
    """Which rows and columns of a matrix are coded, in which context each: the scores of rows and
    columns (none for those of zeros alone), and the columns' skews.

    Scores come first from the sums of rows and columns, as if each row met the same columns; then
    the mean magnitudes that the classes really have give better ones.

    The skew of a column is 0, or 2 k - 1 and 2 k for level k with mostly positive and mostly
    negative symbols.
    """

    rows: Scores
    columns: Scores
    skews: Int64[np.ndarray, " column"]

    @property
    def symbols(self) -> int:
        """How many symbols are coded."""
        return int(self.rows.live.sum()) * int(self.columns.live.sum())

    @property
    def levels(self) -> int:
        """Of skew."""
        return (int(self.skews.max(initial=0)) + 1) // 2

    def sizes(self, classes: int) -> Integers:
        """How many symbols each class codes."""
        return class_sizes(self.rows.some, self.columns.some, classes)

    def model(self, classes: int, frequencies: UInt16[np.ndarray, "table symbol"]) -> ContextModel:
        """The model with these tables: the one of dead columns, then a set of classes a skew."""
        alive = np.flatnonzero(self.columns.live)
        coded = int(alive[-1]) + 1 if alive.size else 0
        live = self.columns.live[:coded]
        # the class of a dead column is 0 in every row
        column_scores = np.where(live, self.columns.values[:coded], -4 * LARGEST_SCORE)
        column_tables = np.where(live, 1 + self.skews[:coded] * classes, 0)
        return ContextModel(
            np.where(self.rows.live, self.rows.values, SKIPPED_ROW).astype(np.int16),
            column_scores.astype(np.int16),
            column_tables.astype(np.int16),
            classes,
            frequencies,
        )


def layout_of(sums: SymbolSums) -> tuple[Contexts, int]:
    """Scores from the sums alone, and the number of classes."""
    live_rows, live_columns = sums.rows > 0, sums.columns > 0
    rows, columns = sums.rows[live_rows], sums.columns[live_columns]
    row_scales = log_scale(rows / columns.size)
    column_scales = log_scale(columns / rows.size)
    mean_scale = log_scale(np.array([columns.mean() / rows.size]))
    step = _score_step(float(columns.sum()), rows.size, columns.size)
    row_scores = _spread(np.rint((row_scales - mean_scale) / step), live_rows)
    column_scores = _spread(np.rint(column_scales / step), live_columns)
    skews = np.zeros(live_columns.size, dtype=np.int64)
    skews[live_columns] = _skews(columns, sums.signs[live_columns], rows.size)
    layout = Contexts(Scores(row_scores, live_rows), Scores(column_scores, live_columns), skews)
    return _based(layout)


def refined_layout(
    layout: Contexts, sums: SymbolSums, means: Float64[np.ndarray, " kind"]
) -> tuple[Contexts, int]:
    """The layout with scores such that classes of these mean magnitudes give the sums, as nearly as
    may be, first the rows', then the columns'; and the number of classes."""
    # the higher the class the larger the mean, never zero
    rising = np.maximum.accumulate(np.maximum(means, 1e-9)) * (1 + 1e-9 * np.arange(means.size))
    rows = _matching(sums.rows, layout.rows, layout.columns.some, rising)
    columns = _matching(sums.columns, layout.columns, rows.some, rising)
    return _based(Contexts(rows, columns, layout.skews))


def _matching(
    sums: Int64[np.ndarray, " entry"],
    series: Scores,
    others: Int64[np.ndarray, " other"],
    means: Float64[np.ndarray, " kind"],
) -> Scores:
    """The scores at which an entry that meets the others has the sum nearest to its own."""
    low, high = int(series.some.min()), int(series.some.max())
    grid = np.arange(low - 1, high + 2)
    lowest = int(others.min())
    counts = np.bincount(others - lowest)
    kinds = np.clip(grid[:, None] + np.arange(counts.size) + lowest, 0, means.size - 1)
    # libm's logarithms and numpy's own sums, which the C form has as well
    expected = _log((means[kinds] * counts).sum(1))
    edges = (expected[1:] + expected[:-1]) / 2
    values = np.zeros(series.live.size, dtype=np.int64)
    values[series.live] = grid[np.searchsorted(edges, _log(sums[series.live]))]
    return Scores(values, series.live)


def _log(
    values: Float64[np.ndarray, " any"] | Int64[np.ndarray, " any"],
) -> Float64[np.ndarray, " any"]:
    return np.array([math.log(value) for value in values.tolist()])


def _based(layout: Contexts) -> tuple[Contexts, int]:
    """The layout with columns' scores such that the smallest class is 0, and how many there are;
    the lowest classes share one where there are too many."""
    rows, columns = layout.rows.some, layout.columns
    highest = int(rows.max() + columns.some.max())
    lowest = max(int(rows.min() + columns.some.min()), highest - FINEST_CLASSES + 1)
    based = Scores(np.where(columns.live, columns.values - lowest, 0), columns.live)
    return Contexts(layout.rows, based, layout.skews), highest - lowest + 1


def _spread(
    some: Float64[np.ndarray, " live"], live: Bool[np.ndarray, " all"]
) -> Int64[np.ndarray, " all"]:
    values = np.zeros(live.size, dtype=np.int64)
    values[live] = np.maximum(some, some.max() - LARGEST_SPREAD + 1)
    return values


def _score_step(total: float, rows: int, columns: int) -> float:
    """The resolution of scores [octaves]: as fine as a row's and a column's symbols can tell.

    A cell of sqrt(12 / I) costs half as much by its width as by its name; I, the information on
    the log2 of a scale, is n a^2 ln(2)^2 for n non-zero symbols with probability exp(-a).
    """
    mean = total / (rows * columns)
    rate = math.log1p(1 / mean)
    count = mean / (1 + mean) * math.sqrt(rows * columns)
    step = math.sqrt(12 / count) / (rate * math.log(2))
    return min(max(step, _FINEST_STEP), _COARSEST_STEP)


def _skews(
    columns: Int64[np.ndarray, " live"], signs: Int64[np.ndarray, " live"], rows: int
) -> Int64[np.ndarray, " live"]:
    means = columns / rows
    tilt = np.abs(signs)
    count = np.maximum(rows * means / (1 + means), tilt)
    levels = np.digitize(tilt / count, _SKEW_EDGES)
    # a tilt that chance alone would give is none
    levels[tilt * tilt < 2.25 * count] = 0
    gain_bits = (count * (tilt / count) ** 2 / (2 * math.log(2)))[levels > 0].sum()
    if gain_bits < 2 * columns.size + 10:
        return np.zeros(columns.size, dtype=np.int64)
    skews: Int64[np.ndarray, " live"] = np.where(levels > 0, 2 * levels - (signs > 0), 0)
    return skews


def write_layout(layout: Contexts, writer: BitWriter, kernels: Kernels) -> Sections:
    """The sections of a layout; small matters go to the writer."""
    skews = layout.skews[layout.columns.live]
    named = {
        "row scores": layout.rows,
        "column scores": layout.columns,
        "skews": Scores(skews, np.ones(skews.size, dtype=np.bool_)),
    }
    return write_scores(named, writer, kernels)


def read_layout(
    sections: Mapping[str, bytes], rows: int, columns: int, reader: BitReader, kernels: Kernels
) -> Contexts:
    """`write_layout` undone. Raises PacketError: sections of no such layout."""
    short = ShortDecoder(sections.get("scores", b""), kernels)
    series = SeriesReader(reader, short, kernels)
    row_series = series.get(rows, sections.get("row scores", b""))
    column_series = series.get(columns, sections.get("column scores", b""))
    coded = series.get(int(column_series.live.sum()), sections.get("skews", b""))
    short.finish()
    if not coded.live.all() or ((coded.values < 0) | (coded.values > 2 * _MOST_LEVELS)).any():
        raise PacketError(f"skews: beyond 0..{2 * _MOST_LEVELS}")
    skews = np.zeros(columns, dtype=np.int64)
    skews[column_series.live] = coded.values
    return Contexts(row_series, column_series, skews)


@final
@dataclass(frozen=True)
class TwoWay(EntropyCoder):
    """See the module: a layout of `Contexts`, tables of its classes, one code or several."""

    name: ClassVar[str] = "two-way"

    def encode(self, symbols: Symbols, kernels: Kernels) -> Sections:
        found = kernels.described(symbols) or described(symbols, kernels)
        if not found.symbols:
            return {}
        chunks = _chunks(found.symbols, symbols.shape[0])
        code = _joined(kernels.rans_encode(symbols, found.model, chunks))
        others = {"code": code, "escapes": found.escapes, "model": found.model_bits}
        return {name: data for name, data in {**found.scores, **others}.items() if data}

    def decode(
        self, sections: Mapping[str, bytes], rows: int, columns: int, kernels: Kernels
    ) -> Symbols:
        refuse_other_sections(sections, "model", "code", "escapes", *SCORE_SECTIONS)
        if not sections or not rows * columns:
            refuse_other_sections(sections)
            return np.zeros((rows, columns), dtype=np.int16)
        reader = BitReader(sections.get("model", b""))
        layout = read_layout(sections, rows, columns, reader, kernels)
        classes, reach, escapes = (Number(1).get(reader) for _ in range(3))
        classes, reach = classes + 1, reach + 1
        if classes > LARGEST_CLASSES or reach > LARGEST_REACH or escapes > 1:
            raise PacketError(f"model: {classes} classes, reach {reach}, escapes {escapes}")
        frequencies = _read_tables(classes, reach, layout, reader, kernels)
        if reader.left:
            raise PacketError(f"model: {reader.left} bytes after the last number")
        model = layout.model(classes, frequencies)
        codes = _split(sections.get("code", b""), _chunks(layout.symbols, rows))
        symbols = kernels.rans_decode(codes, model, columns)
        _add_excesses(symbols, reach, bool(escapes), sections.get("escapes", b""))
        return symbols

    def expected_bytes(
        self, magnitudes: Float64[np.ndarray, " magnitude"], rows: int, columns: int
    ) -> dict[str, float]:
        # independent symbols have one class, and scores of little more than a bit each
        symbols = rows * columns
        chunks = _chunks(symbols, rows)
        code_bits = symbols * signed_entropy(magnitudes) + 8 * _CODE_BYTES * chunks
        return {
            "model": 2.0 * magnitudes.size,
            "scores": (rows + columns) / 8,
            "code": code_bits / 8,
        }


def described(symbols: Symbols, kernels: Kernels) -> Described:
    """What is said of symbols beside their code."""
    sums = kernels.sums(symbols)
    if not sums.largest:
        return Described.nothing()
    layout, kinds = _fitted(symbols, sums, kernels)
    counts, reach, layout = _counted(symbols, layout, kinds, sums.largest, kernels)
    writer = BitWriter()
    scores = write_layout(layout, writer, kernels)
    for value in (counts.shape[1] - 1, reach - 1, int(sums.largest > reach)):
        Number(1).put(value, writer)
    frequencies = _write_tables(counts, layout, writer, kernels)
    escapes = b""
    if sums.largest > reach:
        at_reach = symbols[(symbols >= reach) | (symbols <= -reach)].astype(np.int64)
        escapes = write_excesses(np.abs(at_reach) - reach)
    model = layout.model(counts.shape[1], frequencies)
    return Described(scores, writer.to_bytes(), escapes, model, layout.symbols)


def _fitted(symbols: Symbols, sums: SymbolSums, kernels: Kernels) -> tuple[Contexts, int]:
    """Scores refined once by what some rows say about the classes, and the number of classes."""
    layout, kinds = layout_of(sums)
    every = max(symbols.size // SAMPLE_SYMBOLS, 1)
    some = replace(layout, rows=Scores(layout.rows.values[::every], layout.rows.live[::every]))
    if not some.rows.live.any():
        return layout, kinds
    reach = min(sums.largest, LARGEST_REACH)
    counts = _histogram(symbols[::every], some, kinds, reach, kernels).sum(0)
    totals = counts @ abs(np.arange(-reach, reach + 1))
    # a little of nothing, so that a class that is hardly used says little
    return refined_layout(layout, sums, (totals + 0.05) / (counts.sum(1) + 0.3))


def _histogram(
    symbols: Symbols, layout: Contexts, classes: int, reach: int, kernels: Kernels
) -> Int64[np.ndarray, "skew kind symbol"]:
    """How often each skew and class codes each symbol."""
    sets = 1 + 2 * layout.levels
    blank = np.zeros((1 + sets * classes, 2 * reach + 1), dtype=np.uint16)
    counts = kernels.histogram(symbols, layout.model(classes, blank))
    return counts[1:].reshape(sets, classes, 2 * reach + 1)


def _counted(
    symbols: Symbols, layout: Contexts, classes: int, largest: int, kernels: Kernels
) -> tuple[Int64[np.ndarray, "skew kind symbol"], int, Contexts]:
    """The histogram within the reach, this reach, and the layout, the lowest and highest classes
    merged with their neighbours where they hold too little."""
    reach = min(largest, LARGEST_REACH)
    counts = _histogram(symbols, layout, classes, reach, kernels)
    near = _reach(counts.sum((0, 1)), largest)
    counts = _folded(counts, near)
    low, high = _useful(counts)
    merged = counts[:, low : high + 1].copy()
    merged[:, 0] += counts[:, :low].sum(1)
    merged[:, -1] += counts[:, high + 1 :].sum(1)
    live = layout.columns.live
    shifted = Scores(np.where(live, layout.columns.values - low, 0), live)
    return merged, near, replace(layout, columns=shifted)


def _reach(counts: Int64[np.ndarray, " symbol"], largest: int) -> int:
    """The smallest magnitude that few enough symbols exceed; the largest one if that is small."""
    middle = counts.size // 2
    if largest <= _SMALL_REACH:
        return largest
    sizes = counts[middle:] + counts[middle::-1]
    beyond = sizes.sum() - sizes.cumsum()
    few = beyond <= sizes[1:].sum() >> 10
    return max(int(np.argmax(few)), _SMALL_REACH)


def _folded(
    counts: Int64[np.ndarray, "skew kind symbol"], reach: int
) -> Int64[np.ndarray, "skew kind near"]:
    """The counts with symbols beyond `reach` counted as the nearest within."""
    middle = counts.shape[2] // 2
    near = counts[:, :, middle - reach : middle + reach + 1].copy()
    near[:, :, 0] += counts[:, :, : middle - reach].sum(2)
    near[:, :, -1] += counts[:, :, middle + reach + 1 :].sum(2)
    return near


def _useful(counts: Int64[np.ndarray, "skew kind symbol"]) -> tuple[int, int]:
    """The lowest and highest class to keep: those beyond hold few non-zero symbols."""
    sizes = counts.sum(0)
    zeros = sizes[:, sizes.shape[1] // 2]
    others = sizes.sum(1) - zeros
    low = int(np.argmax(others.cumsum() > _FEW))
    high = len(others) - 1 - int(np.argmax(sizes.sum(1)[::-1].cumsum() > _FEW))
    low = max(low, high - LARGEST_CLASSES + 1)
    return (low, high) if low < high else (high, high)


def _write_tables(
    counts: Int64[np.ndarray, "skew kind symbol"],
    layout: Contexts,
    writer: BitWriter,
    kernels: Kernels,
) -> UInt16[np.ndarray, "table symbol"]:
    reach = counts.shape[2] // 2
    sizes = counts[:, :, reach:].sum(0)
    sizes[:, 1:] += counts[:, :, :reach].sum(0)[:, ::-1]
    hazards = kernels.write_hazards(sizes, layout.sizes(counts.shape[1]), HAZARD_EDGES, writer)
    positive, negative = counts[:, :, reach + 1 :].sum((1, 2)), counts[:, :, :reach].sum((1, 2))
    majorities = [SIGN_ONE // 2]
    for level in range(1, layout.levels + 1):
        more = int(positive[2 * level - 1] + negative[2 * level])
        less = int(negative[2 * level - 1] + positive[2 * level])
        share = majority_share(more, less)
        Number(1).put(share - SIGN_ONE // 2, writer)
        majorities.append(share)
    return frequency_tables(kernels.magnitude_shares(hazards), majorities, kernels)


def _read_tables(
    classes: int, reach: int, layout: Contexts, reader: BitReader, kernels: Kernels
) -> UInt16[np.ndarray, "table symbol"]:
    hazards = kernels.read_hazards(layout.sizes(classes), reach, HAZARD_EDGES, reader)
    half = SIGN_ONE // 2
    majorities = [half, *(half + Number(1).get(reader) for _ in range(layout.levels))]
    if max(majorities) > SIGN_ONE:
        raise PacketError(f"tables: a majority of {max(majorities)} / {SIGN_ONE}")
    return frequency_tables(kernels.magnitude_shares(hazards), majorities, kernels)


def _chunks(symbols: int, rows: int) -> int:
    return min(max(symbols // _CHUNK_SYMBOLS, 1), _MOST_CHUNKS, max(rows, 1))


def _joined(codes: list[bytes]) -> bytes:
    """The lengths of all codes but the last, as u32, then the codes."""
    lengths = np.array([len(code) for code in codes[:-1]], dtype="<u4")
    return lengths.tobytes() + b"".join(codes)


def _split(joined: bytes, chunks: int) -> list[bytes]:
    head = 4 * (chunks - 1)
    if len(joined) < head:
        raise PacketError(f"code: {len(joined)} bytes, expected at least {head}")
    lengths = np.frombuffer(joined[:head], dtype="<u4").astype(np.int64)
    edges = [head, *(head + lengths.cumsum()).tolist(), len(joined)]
    if edges[-2] > len(joined):
        raise PacketError(f"code: {len(joined)} bytes, expected at least {edges[-2]}")
    return [joined[first:last] for first, last in pairwise(edges)]


def _add_excesses(symbols: Symbols, reach: int, escapes: bool, section: bytes) -> None:
    flat = symbols.reshape(-1)
    at_reach = (
        np.flatnonzero((flat >= reach) | (flat <= -reach))
        if escapes
        else np.zeros(0, dtype=np.int64)
    )
    excesses = read_excesses(section, at_reach.size, 32767 - reach).astype(np.int16)
    flat[at_reach] += np.sign(flat[at_reach]) * excesses


def write_excesses(excesses: Int64[np.ndarray, " excess"]) -> bytes:
    """What symbols beyond the tables' reach are more than it, in the order of the symbols.

    The section: a byte p, the unary parts of all excesses, their low p bits (Rice's code); empty
    where there is none.
    """
    if not excesses.size:
        return b""
    code = encode_gaps(excesses)
    return bytes((code.parameter,)) + code.quotients + code.remainders


def read_excesses(section: bytes, count: int, largest: int) -> Int64[np.ndarray, " excess"]:
    """The `count` excesses. Raises PacketError: a section of no such, or one beyond `largest`."""
    if not count:
        if section:
            raise PacketError(f"escapes: {len(section)} bytes, expected none")
        return np.zeros(0, dtype=np.int64)
    if not section:
        raise PacketError(f"escapes: none, expected {count}")
    parameter = min(section[0], 64)
    split = len(section) - (count * parameter + 7) // 8
    code = GolombCode(parameter, section[1 : max(split, 1)], section[max(split, 1) :])
    excesses = decode_gaps(code, count, count * (largest + 1))
    if int(excesses.max()) > largest:
        raise PacketError(f"escapes: {excesses.max()}, expected at most {largest}")
    return excesses
