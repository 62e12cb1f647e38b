"""The figures of what a round is made of and what a device holds: a stacked bar for each run."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.report.compare_columns import (
    limit_bytes,
    memory_bytes,
    payload_bytes,
    phase_seconds,
    shown_names,
)
from cutlayer.report.comparison import Comparison, Entry, RefusedRun
from cutlayer.report.drawing import INK, add_boxes, new_figure
from cutlayer.report.vocabulary import MEMORY_KINDS, PAYLOADS, PHASES, Word, shortened, word
from cutlayer.report.wording import bar_span, byte_scale, time_scale
from cutlayer.units import format_bytes, format_seconds

LIMIT_COLOUR = "#b3261e"
_ROW_HEIGHT = 27
_HALF = 0.34
_LABEL_LENGTH = 24
# of the longest bar
_LABEL_WIDTH = 0.1

Row = Mapping[str, float]


def round_figure(comparison: Comparison) -> Figure:
    """Two panels, a bar a run: seconds of a round by phase, bytes of a round by payload."""
    runs = comparison.runs
    figure = new_figure(100 + _ROW_HEIGHT * len(runs))
    left, right = figure.subplots(1, 2, sharey=True)
    seconds, sizes = [phase_seconds(run) for run in runs], [payload_bytes(run) for run in runs]
    time, size = time_scale(_longest(seconds)), byte_scale(_longest(sizes))
    _stack(left, seconds, PHASES, time.unit_size)
    _stack(right, sizes, PAYLOADS, size.unit_size)
    _totals(left, seconds, time.unit_size, format_seconds)
    _totals(right, sizes, size.unit_size, format_bytes)
    left.set(title="a round's seconds, by phase", xlabel=f"delay [{time.unit}]")
    right.set(title="a round's bytes up and down, by payload", xlabel=f"bytes [{size.unit}]")
    _name_rows(left, runs)
    return figure


def device_memory_figure(comparison: Comparison) -> Figure:
    """A bar a run, those that do not fit too: what a device holds by kind, and a mark at its limit.

    A limit far beyond all bars is not drawn: it would leave nothing of them to see.
    """
    entries = comparison.entries
    figure = new_figure(90 + _ROW_HEIGHT * len(entries))
    axes = figure.subplots()
    rows = [memory_bytes(entry) for entry in entries]
    longest = int(_longest(rows))
    scale = byte_scale(longest)
    _stack(axes, rows, MEMORY_KINDS, scale.unit_size)
    farthest = 0.0
    for place, (entry, row) in enumerate(zip(entries, rows, strict=True)):
        limit, size = limit_bytes(entry) or 0, sum(row.values())
        if 0 < limit <= bar_span(longest, limit):
            x = limit / scale.unit_size
            axes.plot([x, x], [place - 0.46, place + 0.46], color=LIMIT_COLOUR, linewidth=2.0)
        else:
            limit = 0
        # a number that the mark would cross stands behind it
        end = limit if 0 <= limit - size < _LABEL_WIDTH * longest else size
        over = isinstance(entry, RefusedRun)
        text = format_bytes(size) + (", does not fit" if over else "")
        _total(axes, place, end / scale.unit_size, text, LIMIT_COLOUR if over else INK)
        farthest = max(farthest, size, limit)
    axes.set_xlim(0, 1.25 * farthest / scale.unit_size)
    axes.set_xlabel(f"memory [{scale.unit}]")
    _name_rows(axes, entries)
    return figure


def bar_legend(vocabulary: dict[str, Word], rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Colours and labels of what the bars of `rows` are made of."""
    words = [word(vocabulary, name) for name in shown_names(vocabulary, rows)]
    return [(one.colour, one.label) for one in words]


def _stack(axes: Axes, rows: Sequence[Row], vocabulary: dict[str, Word], unit_size: float) -> None:
    starts = np.zeros(len(rows))
    middles = np.arange(len(rows), dtype=float)
    for name in shown_names(vocabulary, rows):
        ends = starts + np.array([row.get(name, 0.0) for row in rows]) / unit_size
        sides = (starts, ends, middles - _HALF, middles + _HALF)
        add_boxes(axes, np.stack(sides, axis=1), word(vocabulary, name).colour)
        starts = ends


def _totals(
    axes: Axes, rows: Sequence[Row], unit_size: float, text: Callable[[float], str]
) -> None:
    for place, row in enumerate(rows):
        total = sum(row.values())
        _total(axes, place, total / unit_size, text(total), INK)
    axes.set_xlim(0, 1.2 * _longest(rows) / unit_size or 1.0)


def _total(axes: Axes, place: int, end: float, text: str, colour: str) -> None:
    axes.annotate(
        text,
        (end, place),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color=colour,
    )


def _name_rows(axes: Axes, entries: Sequence[Entry]) -> None:
    for one in axes.figure.axes:
        one.grid(visible=False, axis="y")
        one.grid(visible=True, axis="x")
    axes.set_yticks(
        range(len(entries)), [shortened(entry.label, _LABEL_LENGTH) for entry in entries]
    )
    axes.set_ylim(len(entries) - 0.4, -0.6)


def _longest(rows: Sequence[Row]) -> float:
    return max(sum(row.values()) for row in rows)
