"""Which rows and columns of a matrix are coded, in which context each: found, refined, written.

Scores come first from the sums of rows and columns, as if each row met the same columns; then the
mean magnitudes that the classes really have give better ones. Knows nothing of tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt16

from cutlayer.codec.entropy import scores, tables
from cutlayer.codec.entropy.adaptive_bits import BitReader, BitWriter
from cutlayer.codec.entropy.coder import Sections
from cutlayer.codec.entropy.scores import Series, SeriesReader
from cutlayer.codec.entropy.short_code import ShortDecoder
from cutlayer.codec.kernels.kernels import SKIPPED_ROW, ContextModel, Kernels, SymbolSums
from cutlayer.errors import PacketError

# columns with so large a share |positive - negative| / non-zero have a skew of 1, 2, 3
_SKEW_EDGES = (0.2, 0.5, 0.8)
_MOST_LEVELS = len(_SKEW_EDGES)
# of a score [octaves]
_FINEST_STEP, _COARSEST_STEP = 0.25, 1.0
FINEST_CLASSES = 96
SCORE_SECTIONS = ("scores", "row scores", "column scores", "skews")


@dataclass(frozen=True, eq=False)
class Layout:
    """The scores of rows and columns (none for those of zeros alone), and the columns' skews.

    The skew of a column is 0, or 2 k - 1 and 2 k for level k with mostly positive and mostly
    negative symbols.
    """

    rows: Series
    columns: Series
    skews: Int64[np.ndarray, " column"]

    @property
    def levels(self) -> int:
        """Of skew."""
        return (int(self.skews.max(initial=0)) + 1) // 2

    def sizes(self, classes: int) -> list[int]:
        """How many symbols each class codes."""
        return tables.class_sizes(self.rows.some, self.columns.some, classes)

    def model(self, classes: int, frequencies: UInt16[np.ndarray, "table symbol"]) -> ContextModel:
        """The model with these tables: the one of dead columns, then a set of classes a skew."""
        alive = np.flatnonzero(self.columns.live)
        coded = int(alive[-1]) + 1 if alive.size else 0
        live = self.columns.live[:coded]
        # the class of a dead column is 0 in every row
        column_scores = np.where(live, self.columns.values[:coded], -4 * scores.LARGEST_SCORE)
        column_tables = np.where(live, 1 + self.skews[:coded] * classes, 0)
        return ContextModel(
            np.where(self.rows.live, self.rows.values, SKIPPED_ROW).astype(np.int16),
            column_scores.astype(np.int16),
            column_tables.astype(np.int16),
            classes,
            frequencies,
        )


def layout_of(sums: SymbolSums) -> tuple[Layout, int]:
    """Scores from the sums alone, and the number of classes."""
    live_rows, live_columns = sums.rows > 0, sums.columns > 0
    rows, columns = sums.rows[live_rows], sums.columns[live_columns]
    row_scales = scores.log_scale(rows / columns.size)
    column_scales = scores.log_scale(columns / rows.size)
    mean_scale = scores.log_scale(np.array([columns.mean() / rows.size]))
    step = _score_step(float(columns.sum()), rows.size, columns.size)
    row_scores = _spread(np.rint((row_scales - mean_scale) / step), live_rows)
    column_scores = _spread(np.rint(column_scales / step), live_columns)
    skews = np.zeros(live_columns.size, dtype=np.int64)
    skews[live_columns] = _skews(columns, sums.signs[live_columns], rows.size)
    layout = Layout(Series(row_scores, live_rows), Series(column_scores, live_columns), skews)
    return _based(layout)


def refined(
    layout: Layout, sums: SymbolSums, means: Float64[np.ndarray, " kind"]
) -> tuple[Layout, int]:
    """The layout with scores such that classes of these mean magnitudes give the sums, as nearly as
    may be, first the rows', then the columns'; and the number of classes."""
    # the higher the class the larger the mean, never zero
    rising = np.maximum.accumulate(np.maximum(means, 1e-9)) * (1 + 1e-9 * np.arange(means.size))
    rows = _matching(sums.rows, layout.rows, layout.columns.some, rising)
    columns = _matching(sums.columns, layout.columns, rows.some, rising)
    return _based(Layout(rows, columns, layout.skews))


def _matching(
    sums: Int64[np.ndarray, " entry"],
    series: Series,
    others: Int64[np.ndarray, " other"],
    means: Float64[np.ndarray, " kind"],
) -> Series:
    """The scores at which an entry that meets the others has the sum nearest to its own."""
    low, high = int(series.some.min()), int(series.some.max())
    grid = np.arange(low - 1, high + 2)
    lowest = int(others.min())
    counts = np.bincount(others - lowest)
    kinds = np.clip(grid[:, None] + np.arange(counts.size) + lowest, 0, means.size - 1)
    expected = np.log(means[kinds] @ counts)
    edges = (expected[1:] + expected[:-1]) / 2
    values = np.zeros(series.live.size, dtype=np.int64)
    values[series.live] = grid[np.searchsorted(edges, np.log(sums[series.live]))]
    return Series(values, series.live)


def _based(layout: Layout) -> tuple[Layout, int]:
    """The layout with columns' scores such that the smallest class is 0, and how many there are;
    the lowest classes share one where there are too many."""
    rows, columns = layout.rows.some, layout.columns
    highest = int(rows.max() + columns.some.max())
    lowest = max(int(rows.min() + columns.some.min()), highest - FINEST_CLASSES + 1)
    based = Series(np.where(columns.live, columns.values - lowest, 0), columns.live)
    return Layout(layout.rows, based, layout.skews), highest - lowest + 1


def _spread(
    some: Float64[np.ndarray, " live"], live: Bool[np.ndarray, " all"]
) -> Int64[np.ndarray, " all"]:
    values = np.zeros(live.size, dtype=np.int64)
    values[live] = np.maximum(some, some.max() - scores.LARGEST_SPREAD + 1)
    return values


def _score_step(total: float, rows: int, columns: int) -> float:
    """The resolution of scores [octaves]: as fine as a row's and a column's symbols can tell.

    A cell of sqrt(12 / I) costs half as much by its width as by its name; I, the information on
    the log2 of a scale, is n a^2 ln(2)^2 for n non-zero symbols with probability exp(-a).
    """
    mean = total / (rows * columns)
    rate = np.log1p(1 / mean)
    count = mean / (1 + mean) * np.sqrt(rows * columns)
    step = np.sqrt(12 / count) / (rate * np.log(2))
    return float(min(max(step, _FINEST_STEP), _COARSEST_STEP))


def _skews(
    columns: Int64[np.ndarray, " live"], signs: Int64[np.ndarray, " live"], rows: int
) -> Int64[np.ndarray, " live"]:
    means = columns / rows
    tilt = np.abs(signs)
    count = np.maximum(rows * means / (1 + means), tilt)
    levels = np.digitize(tilt / count, _SKEW_EDGES)
    # a tilt that chance alone would give is none
    levels[tilt * tilt < 2.25 * count] = 0
    gain_bits = (count * (tilt / count) ** 2 / (2 * np.log(2)))[levels > 0].sum()
    if gain_bits < 2 * columns.size + 10:
        return np.zeros(columns.size, dtype=np.int64)
    skews: Int64[np.ndarray, " live"] = np.where(levels > 0, 2 * levels - (signs > 0), 0)
    return skews


def write_layout(layout: Layout, writer: BitWriter, kernels: Kernels) -> Sections:
    """The sections of a layout; small matters go to the writer."""
    skews = layout.skews[layout.columns.live]
    named = {
        "row scores": layout.rows,
        "column scores": layout.columns,
        "skews": Series(skews, np.ones(skews.size, dtype=np.bool_)),
    }
    return scores.encode_all(named, writer, kernels)


def read_layout(
    sections: Mapping[str, bytes], rows: int, columns: int, reader: BitReader, kernels: Kernels
) -> Layout:
    """`write_layout` undone. Raises PacketError: sections of no such layout."""
    short = ShortDecoder(sections.get("scores", b""))
    series = SeriesReader(reader, short, kernels)
    row_series = series.get(rows, sections.get("row scores", b""))
    column_series = series.get(columns, sections.get("column scores", b""))
    coded = series.get(int(column_series.live.sum()), sections.get("skews", b""))
    short.finish()
    if not coded.live.all() or ((coded.values < 0) | (coded.values > 2 * _MOST_LEVELS)).any():
        raise PacketError(f"skews: beyond 0..{2 * _MOST_LEVELS}")
    skews = np.zeros(columns, dtype=np.int64)
    skews[column_series.live] = coded.values
    return Layout(row_series, column_series, skews)
