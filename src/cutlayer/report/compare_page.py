"""`compare.html`: one self-contained page about several runs, in the style of `report.html`, and
its figures: what was learned for what, what a round is made of, memory.

Knows comparisons, not files; what stands where is the template's.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import matplotlib as mpl
import numpy as np
from jaxtyping import Float64
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from cutlayer.report.comparison import (
    Column,
    ComparedRun,
    Comparison,
    Entry,
    Point,
    RefusedRun,
    comparison_title,
    limit_bytes,
    memory_bytes,
    payload_bytes,
    phase_seconds,
    result_columns,
    settings_of,
    shown_names,
    target_columns,
    target_text,
)
from cutlayer.report.drawing import (
    GRID,
    INK,
    MUTED,
    add_boxes,
    legend_columns,
    new_figure,
    plain_style,
    svg_element,
    whole_ticks,
)
from cutlayer.report.wording import (
    MEMORY_KINDS,
    PAYLOADS,
    PHASES,
    Word,
    bar_span,
    byte_scale,
    cells,
    render,
    score_text,
    shortened,
    time_scale,
    word,
)
from cutlayer.training.records import Score
from cutlayer.units import format_bytes, format_seconds

# The figures.


_COLOURS = (
    "#1f5a93",
    "#e0861a",
    "#0e8a7c",
    "#b3261e",
    "#7657a6",
    "#5fb0e0",
    "#c25a9a",
    "#5c6b2f",
)
_MARKERS = "osD^vPX*"
_LINES: tuple[Literal["-", "--", ":"], ...] = ("-", "--", ":")
# axes with runs that reach this much farther than others are logarithmic
_WIDE = 20.0
_MOST_MARKS = 14
# what is added to a line for each run that lies on it [pt], and at most for all of them
_RIM = 3.0
_MOST_RIM = 8.0
LABEL_LENGTH = 36


@dataclass(frozen=True)
class _Panel:
    """A quantity that scores are drawn against, in units of its axis."""

    title: str
    label: str
    position: Callable[[Point], float]


def compare_curves(comparison: Comparison) -> Figure:
    """Three panels: score by round, by time, by bytes up and down; a legend below.

    The axes of time and bytes are logarithmic where the runs' last positions differ by more than a
    factor of 20 (`wide`): the evaluation before training, at 0, is then left out.
    """
    runs = comparison.runs
    ends = [run.points[-1] for run in runs]
    time = time_scale(max(point.time_s for point in ends))
    size = byte_scale(max(point.sent_bytes for point in ends))
    measure = comparison.measure
    panels = (
        _Panel(f"{measure} by round", "round", lambda point: float(point.round)),
        _Panel(
            "by simulated or measured time",
            f"time [{time.unit}]",
            lambda point: point.time_s / time.unit_size,
        ),
        _Panel(
            "by bytes over the link",
            f"bytes, uplink and downlink [{size.unit}]",
            lambda point: point.sent_bytes / size.unit_size,
        ),
    )
    columns = legend_columns([run.label for run in runs], LABEL_LENGTH)
    figure = new_figure(300 + 22 * math.ceil(len(runs) / columns))
    axes = list(figure.subplots(1, 3, sharey=True))
    for place, (one, panel) in enumerate(zip(axes, panels, strict=True)):
        _draw(one, panel, runs, logarithmic=place > 0 and wide(runs, panel.position))
    whole_ticks(axes[0], 0, max(len(run.points) for run in runs))
    scale_axis(axes[0], [point.score for run in runs for point in run.points])
    _draw_target(axes, comparison)
    handles = [line_style(number, run.label) for number, run in enumerate(runs)]
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, handlelength=2.6)
    return figure


def coinciding(comparison: Comparison) -> bool:
    """Whether any two runs have the same scores round by round."""
    curves = [_curve(run, lambda p: float(p.round), logarithmic=False) for run in comparison.runs]
    return any(_coincide(one, other) for one, other in combinations(curves, 2))


def wide(runs: Sequence[ComparedRun], position: Callable[[Point], float]) -> bool:
    """Whether the farthest run ends more than 20 times farther than the nearest."""
    ends = [end for run in runs if (end := position(run.points[-1])) > 0]
    return bool(ends) and max(ends) > _WIDE * min(ends)


def _draw(axes: Axes, panel: _Panel, runs: Sequence[ComparedRun], *, logarithmic: bool) -> None:
    curves = [_curve(run, panel.position, logarithmic) for run in runs]
    for number, (run, curve) in enumerate(zip(runs, curves, strict=True)):
        # a run that later ones cover shows as a rim around them
        covers = sum(_coincide(curve, other) for other in curves[number + 1 :])
        group = sum(_coincide(curve, other) for other in curves) - 1
        line = line_style(number, run.label, covers * min(_RIM, _MOST_RIM / max(group, 1)))
        line.set_data(curve[:, 0], curve[:, 1])
        line.set_markevery(math.ceil(len(curve) / _MOST_MARKS))
        line.set_clip_on(False)
        axes.add_line(line)
    axes.set(title=panel.title, xlabel=panel.label)
    axes.grid(visible=True, axis="x", color=GRID)
    places = np.concatenate([curve[:, 0] for curve in curves])
    last = float(places.max(initial=0.0)) or 1.0
    if logarithmic:
        _logarithmic_x(axes, float(places.min(initial=last)), last)
    else:
        axes.set_xlim(-0.04 * last, 1.04 * last)


def line_style(number: int, label: str, rim: float = 0.0) -> Line2D:
    """How run `number` is drawn; `rim` [pt]: wider, to show around others."""
    return Line2D(
        [],
        [],
        color=_COLOURS[number % len(_COLOURS)],
        linestyle=_LINES[number // len(_COLOURS) % len(_LINES)],
        linewidth=mpl.rcParams["lines.linewidth"] + rim,
        marker=_MARKERS[number % len(_MARKERS)],
        markersize=mpl.rcParams["lines.markersize"] + 1.3 * rim,
        label=shortened(label, LABEL_LENGTH),
        zorder=2.5,
    )


def _curve(
    run: ComparedRun, position: Callable[[Point], float], logarithmic: bool
) -> Float64[np.ndarray, "evaluation 2"]:
    """Positions and scores; a score that is no number interrupts the line."""
    rows = [(position(point), point.score.value) for point in run.points]
    shown = [
        (place, score if math.isfinite(score) else math.nan)
        for place, score in rows
        if place > 0 or not logarithmic
    ]
    return np.array(shown, dtype=np.float64).reshape(-1, 2)


def _coincide(
    curve: Float64[np.ndarray, "evaluation 2"], other: Float64[np.ndarray, "other 2"]
) -> bool:
    """Whether the eye could tell them apart: less than a thousandth of their extents."""
    if curve.shape != other.shape or not len(curve):
        return False
    apart = np.nanmax(np.abs(curve - other), axis=0, initial=0.0)
    same_holes = np.array_equal(np.isnan(curve), np.isnan(other))
    extent = np.nanmax(np.abs(curve), axis=0, initial=0.0)
    return same_holes and bool(np.all(apart <= 1e-3 * extent))


def _logarithmic_x(axes: Axes, low: float, high: float) -> None:
    axes.set_xscale("log")
    room = (high / low) ** 0.04
    axes.set_xlim(low / room, high * room)
    steps = (1.0,) if high / low > 300 else (1.0, 3.0)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))
    axes.xaxis.set_minor_formatter(NullFormatter())


def scale_axis(axes: Axes, scores: Sequence[Score]) -> None:
    """The axis of some scores, percent where they are fractions, logarithmic where they are far
    apart."""
    values = [score.value for score in scores if math.isfinite(score.value)] or [0.0, 1.0]
    low, high = min(values), max(values)
    if scores[0].measure == "accuracy":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    elif low > 0 and high > _WIDE * low:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=12))
        axes.yaxis.set_major_formatter(FuncFormatter(_plain))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="y", which="minor", length=0)
        axes.set_ylim(low / 1.3, high * 1.3)
        return
    # equal values, or one alone, still get an axis around them
    span = (high - low) or abs(high) or 1.0
    axes.set_ylim(low - 0.12 * span, high + 0.12 * span)


def _draw_target(axes: Sequence[Axes], comparison: Comparison) -> None:
    if comparison.target is None:
        return
    low, high = axes[0].get_ylim()
    if not low <= comparison.target.value <= high:
        return
    for one in axes:
        one.axhline(comparison.target.value, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    rising = comparison.measure == "accuracy"
    axes[0].annotate(
        f"target {score_text(comparison.target)}",
        (0.0, comparison.target.value),
        xycoords=("axes fraction", "data"),
        xytext=(4, 3 if rising else -3),
        textcoords="offset points",
        va="bottom" if rising else "top",
        color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
    )


def _plain(value: float, _position: object = None) -> str:
    return f"{value:g}"


LIMIT_COLOUR = "#b3261e"
_ROW_HEIGHT = 27
_HALF = 0.34
_ROW_LABEL_LENGTH = 24
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
    left.set(title="round delay by phase", xlabel=f"delay [{time.unit}]")
    right.set(
        title="bytes per round, uplink and downlink, by payload", xlabel=f"bytes [{size.unit}]"
    )
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
        range(len(entries)), [shortened(entry.label, _ROW_LABEL_LENGTH) for entry in entries]
    )
    axes.set_ylim(len(entries) - 0.4, -0.6)


def _longest(rows: Sequence[Row]) -> float:
    return max(sum(row.values()) for row in rows)


# The page.


Table = tuple[list[str], list[tuple[str, ...]]]


def compare_page(comparison: Comparison) -> str:
    """The whole page as text; the same comparison gives the same text.

    Raises RunError: a run's configuration is not YAML.
    """
    entries, runs, measure = comparison.entries, comparison.runs, comparison.measure
    limits = sorted({limit for one in entries if (limit := limit_bytes(one))})
    with plain_style():
        curves = svg_element(compare_curves(comparison), "curves", f"{measure} of every run")
        round_ = svg_element(round_figure(comparison), "round", "seconds and bytes of a round")
        memory = svg_element(device_memory_figure(comparison), "memory", "peak memory of a device")
    return render(
        "compare.html",
        title=comparison_title(comparison),
        comparison=comparison,
        caption=_caption(comparison),
        until=target_text(comparison),
        target=_table(entries, target_columns(comparison)),
        results=_table(entries, result_columns(comparison)),
        seconds=bar_legend(PHASES, [phase_seconds(run) for run in runs]),
        sizes=bar_legend(PAYLOADS, [payload_bytes(run) for run in runs]),
        kinds=bar_legend(MEMORY_KINDS, [memory_bytes(entry) for entry in entries]),
        limits=" or ".join(format_bytes(limit) for limit in limits),
        labels=[entry.label for entry in entries],
        settings=[(row.key, *row.values) for row in differences(entries)],
        places=[(run.label, run.place) for run in runs],
        curves=Markup(curves),
        round=Markup(round_),
        memory=Markup(memory),
    )


def _caption(comparison: Comparison) -> str:
    runs = comparison.runs
    caption = "Bytes are those of both directions."
    if coinciding(comparison):
        caption += " Runs that coincide are drawn as rims."
    if wide(runs, lambda p: p.time_s) or wide(runs, lambda p: float(p.sent_bytes)):
        caption += " On a logarithmic axis the evaluation before training, at 0, is left out."
    return caption


def _table(entries: Sequence[Entry], columns: Sequence[Column]) -> Table:
    names = [
        entry.label if isinstance(entry, ComparedRun) else f"{entry.label} (does not fit)"
        for entry in entries
    ]
    rows = zip(names, *(cells(one.values, one.texts) for one in columns), strict=True)
    return ["run", *(column.label for column in columns)], list(rows)


@dataclass(frozen=True)
class Difference:
    """One dotted key and its value in each run, as YAML; `-` where a run's file has no such key."""

    key: str
    values: tuple[str, ...]


def differences(entries: Sequence[Entry]) -> tuple[Difference, ...]:
    """The keys whose values are not the same everywhere, in the order of the files.

    Raises RunError: a configuration is not YAML.
    """
    settings = [settings_of(entry) for entry in entries]
    keys = dict.fromkeys(key for one in settings for key in one)
    rows = [Difference(key, tuple(one.get(key, "-") for one in settings)) for key in keys]
    return tuple(row for row in rows if len(set(row.values)) > 1)
