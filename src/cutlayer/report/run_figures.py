"""The figures of a run but for its delays: score and losses, bytes, memory, who holds what.

Where there is room numbers and names are written in a map's cells and beside them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cutlayer.report.drawing import (
    FIGURE_WIDTH,
    INK,
    MUTED,
    add_boxes,
    column_limits,
    column_width,
    new_figure,
    stack_columns,
    whole_ticks,
)
from cutlayer.report.run_reader import trained
from cutlayer.report.wording import (
    DEVICE_COLOUR,
    MEMORY_KINDS,
    PAYLOADS,
    SCORE_COLOUR,
    TRAIN_COLOUR,
    Scale,
    bar_span,
    byte_scale,
    score_text,
    shortened,
    time_scale,
    word,
)
from cutlayer.training.records import (
    EvaluationDetails,
    Partition,
    RoundRecord,
    Score,
    Summary,
    TrainedRound,
    scored,
)
from cutlayer.units import format_bytes

# the most rows or columns whose names are written; more are numbered from 0
MOST_NAMED = 50

_COLOURS = LinearSegmentedColormap.from_list("counts", ["#ffffff", "#b9d5ec", "#4a86bd", "#0d2b49"])
_FEWEST_COLUMNS = 8
_LETTER_WIDTH = 7


@dataclass(frozen=True)
class Side:
    """One side of the map: its title and the label of each row or column."""

    title: str
    labels: tuple[str, ...]


def map_figure(
    counts: Float[np.ndarray, "row column"], down: Side, across: Side, unit: str
) -> Figure:
    """The map of `counts`, at least 0 and in `unit`, which is said where they are not written."""
    rows, columns = counts.shape
    row_height = 30 if rows <= 12 else 22 if rows <= 24 else 15 if rows <= MOST_NAMED else 7
    turned = _too_long(across)
    figure = new_figure((130 if turned else 60) + rows * row_height)
    axes = figure.subplots()
    norm = PowerNorm(0.6, vmin=0, vmax=max(counts.max(), 1))
    image = axes.imshow(counts, cmap=_COLOURS, norm=norm, aspect="auto", interpolation="none")
    axes.set_xlim(-0.5, max(columns, _FEWEST_COLUMNS) - 0.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)
    _label_rows(axes, down)
    _label_columns(axes, across, turned)
    if columns <= 26 and rows <= 40:
        _write_counts(axes, counts)
    else:
        bar = figure.colorbar(image, ax=axes, fraction=0.02, pad=0.01, label=unit)
        bar.outline.set_visible(False)
    return figure


def _label_rows(axes: Axes, side: Side) -> None:
    axes.set_ylabel(side.title)
    if len(side.labels) <= MOST_NAMED:
        axes.set_yticks(range(len(side.labels)), side.labels)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))


def _label_columns(axes: Axes, side: Side, turned: bool) -> None:
    axes.set_xlabel(side.title)
    if len(side.labels) > MOST_NAMED:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=20, integer=True))
        return
    axes.set_xticks(range(len(side.labels)), side.labels)
    if turned:
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")


def _too_long(side: Side) -> bool:
    count = len(side.labels)
    room = 0.88 * FIGURE_WIDTH / max(count, _FEWEST_COLUMNS)
    longest = max(len(label) for label in side.labels)
    return count <= MOST_NAMED and longest * _LETTER_WIDTH > room


def _write_counts(axes: Axes, counts: Float[np.ndarray, "row column"]) -> None:
    rows, columns = counts.shape
    axes.hlines(np.arange(rows + 1) - 0.5, -0.5, columns - 0.5, color="white", linewidth=1.5)
    axes.vlines(np.arange(columns + 1) - 0.5, -0.5, rows - 0.5, color="white", linewidth=1.5)
    # the colour map turns dark at about a third of the largest count
    dark = counts > 0.35 * counts.max()
    for row, column in np.ndindex(rows, columns):
        count = counts[row, column]
        colour = "white" if dark[row, column] else INK if count > 0 else "#b6bec8"
        write_cell(axes, column, row, f"{count:.0f}", colour, "center")


def write_cell(axes: Axes, x: float, y: float, text: str, colour: str, vertical: str) -> None:
    """A number at a place; the layout leaves it alone."""
    label = axes.annotate(
        text,
        (x, y),
        xytext=(0, 3 if vertical == "bottom" else 0),
        textcoords="offset points",
        ha="center",
        va=vertical,
        color=colour,
        fontsize=10,
    )
    # it stands inside the axes; measuring hundreds for the layout would take seconds
    label.set_in_layout(False)


def curve_figure(records: Sequence[RoundRecord], clock: str) -> Figure:
    """Three panels: score by round, score by time (`clock`: simulated, measured), both losses by
    round."""
    figure = new_figure(290)
    by_round, by_time, losses = figure.subplots(1, 3)
    evaluated = scored(records)
    scores = [score for _, score in evaluated]
    measure = scores[0].measure
    rounds = [float(record.round) for record, _ in evaluated]
    times = [record.virtual_time_s for record in records]
    scale = time_scale(max(times))
    seconds = [record.virtual_time_s / scale.unit_size for record, _ in evaluated]
    _draw_score(by_round, rounds, scores)
    _draw_score(by_time, seconds, scores)
    _draw_losses(losses, records)
    by_round.set(title=f"{measure} by round", xlabel="round")
    by_time.set(title=f"{measure} by {clock} time", xlabel=f"{clock} time [{scale.unit}]")
    losses.set(title="loss by round", xlabel="round")
    for axes in (by_round, losses):
        whole_ticks(axes, 0, len(records))
        _side_room(axes, float(len(records) - 1))
    _side_room(by_time, max(times) / scale.unit_size)
    return figure


def _draw_score(axes: Axes, positions: list[float], scores: Sequence[Score]) -> None:
    values = _finite([score.value for score in scores])
    _line(axes, positions, values, SCORE_COLOUR, "score")
    if scores[0].measure == "accuracy":
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
    _room(axes, values)
    trained = len(scores) > 1
    # on the side that the line does not come from
    above = not trained or not values[-1] < values[-2]
    if math.isfinite(values[-1]):
        axes.annotate(
            score_text(scores[-1]),
            (positions[-1], values[-1]),
            xytext=(4 if trained else -4, 9 if above else -9),
            textcoords="offset points",
            ha="right" if trained else "left",
            va="bottom" if above else "top",
            weight="bold",
            color=INK,
        )


def _draw_losses(axes: Axes, records: Sequence[RoundRecord]) -> None:
    done = trained(records)
    train = _finite([record.train_loss for record in done])
    losses = [(float(one.round), one.eval_loss) for one in records if one.eval_loss is not None]
    evaluated = _finite([loss for _, loss in losses])
    _line(axes, [float(record.round) for record in done], train, TRAIN_COLOUR, "training")
    _line(axes, [number for number, _ in losses], evaluated, SCORE_COLOUR, "evaluation")
    _room(axes, train + evaluated)
    if axes.lines:
        axes.legend(loc="upper right", handlelength=1.2)


def _line(axes: Axes, positions: list[float], values: list[float], colour: str, label: str) -> None:
    if not any(math.isfinite(value) for value in values):
        return
    marker = "o" if len(values) <= 40 else ""
    axes.plot(
        positions,
        values,
        color=colour,
        linewidth=1.8,
        marker=marker,
        markersize=4.5,
        label=label,
        clip_on=False,
    )


def _room(axes: Axes, values: list[float]) -> None:
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    # equal values, or one alone, still get an axis around them
    span = (high - low) or abs(high) or 1.0
    axes.set_ylim(low - 0.15 * span, high + 0.18 * span)


def _side_room(axes: Axes, last: float) -> None:
    width = last or 1.0
    axes.set_xlim(-0.04 * width, 1.04 * width)


def _finite(values: list[float]) -> list[float]:
    return [value if math.isfinite(value) else math.nan for value in values]


def _percent(value: float, _position: object = None) -> str:
    return f"{100 * value:g} %"


UPLINK_COLOUR = "#f0a13c"
DOWNLINK_COLOUR = "#5b93c7"
UNCOMPRESSED_COLOUR = "#dfe3e8"


def byte_figure(works: Sequence[TrainedRound]) -> Figure:
    """Bytes of each round: uplink and downlink over uncompressed (grey), and both by payload."""
    figure = new_figure(280)
    uplink, downlink, by_payload = figure.subplots(1, 3)
    sent = np.array([[work.uplink_bytes, work.downlink_bytes] for work in works])
    plain = np.array(
        [[work.uncompressed_uplink_bytes, work.uncompressed_downlink_bytes] for work in works]
    )
    largest = float(max(sent.max(), plain.max()))
    scale = byte_scale(largest)
    panels = ((uplink, "uplink", UPLINK_COLOUR), (downlink, "downlink", DOWNLINK_COLOUR))
    for direction, (axes, title, colour) in enumerate(panels):
        _columns(axes, plain[:, direction], UNCOMPRESSED_COLOUR, scale)
        _columns(axes, sent[:, direction], colour, scale)
        column_limits(axes, 1, len(works), largest / scale.unit_size)
        axes.set(title=title, xlabel="round")
    uplink.set_ylabel(f"bytes per round [{scale.unit}]")
    _draw_payloads(by_payload, works)
    return figure


def payload_names(works: Sequence[TrainedRound]) -> list[str]:
    """The payloads that were sent at all, in their usual order, unknown ones last."""
    sent = {name for work in works for name, size in work.bytes_by_payload.items() if size > 0}
    return [name for name in PAYLOADS if name in sent] + sorted(sent - PAYLOADS.keys())


def _columns(axes: Axes, heights: Int[np.ndarray, " column"], colour: str, scale: Scale) -> None:
    middles, width = np.arange(1, len(heights) + 1), column_width(len(heights))
    tops = heights / scale.unit_size
    sides = (middles - width / 2, middles + width / 2, np.zeros_like(tops), tops)
    add_boxes(axes, np.stack(sides, axis=1), colour)


def _draw_payloads(axes: Axes, works: Sequence[TrainedRound]) -> None:
    names = payload_names(works)
    heights = np.array(
        [[float(work.bytes_by_payload.get(name, 0)) for name in names] for work in works]
    )
    scale = byte_scale(float(heights.sum(axis=1).max()))
    stack_columns(axes, heights / scale.unit_size, [word(PAYLOADS, n).colour for n in names], 1)
    axes.set(title="both, by payload", xlabel="round", ylabel=f"bytes per round [{scale.unit}]")


_LIMIT_COLOUR = "#b3261e"
_WHOLE_COLOUR = "#c3cad3"
_HALF = 0.32
# of the axis
_LABEL_WIDTH = 0.11


def memory_figure(summary: Summary) -> Figure:
    """Three bars: peak of a device by kind, the whole model's weights, fine-tuning it unsplit.

    A limit far beyond the bars is named at the edge, not drawn to scale.
    """
    figure = new_figure(200)
    axes = figure.subplots()
    rows = {
        "a device, split": summary.device_peak_bytes,
        "whole model, weights alone": summary.model_bytes,
        "whole model, unsplit": summary.unsplit_peak_bytes,
    }
    limit = summary.device_memory_limit_bytes
    span = bar_span(max(rows.values()), limit)
    scale = byte_scale(span)
    axes.set_xlim(0, 1.14 * span / scale.unit_size)
    axes.set_ylim(2.6, -0.95)
    _draw_kinds(axes, summary, scale.unit_size)
    for row, size in enumerate(rows.values()):
        end = size / scale.unit_size
        if row > 0:
            add_boxes(axes, np.array([[0.0, end, row - _HALF, row + _HALF]]), _WHOLE_COLOUR)
        anchor = _beyond_limit(size, limit, span) / scale.unit_size
        _label(axes, anchor, row, format_bytes(size))
    if limit is not None:
        _draw_limit(axes, limit / scale.unit_size, format_bytes(limit))
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x")
    axes.set_yticks(range(3), list(rows))
    axes.set_xlabel(f"memory [{scale.unit}]")
    return figure


def memory_kinds(summary: Summary) -> list[str]:
    """The kinds of memory with bytes in the summary, in their usual order, unknown ones last."""
    given = {kind for kind, size in summary.device_memory_bytes.items() if size}
    return [kind for kind in MEMORY_KINDS if kind in given] + sorted(given - MEMORY_KINDS.keys())


def _draw_kinds(axes: Axes, summary: Summary, unit_size: float) -> None:
    start = 0.0
    for kind in memory_kinds(summary):
        end = start + summary.device_memory_bytes[kind] / unit_size
        add_boxes(axes, np.array([[start, end, -_HALF, _HALF]]), word(MEMORY_KINDS, kind).colour)
        start = end


def _beyond_limit(size: int, limit: int | None, span: int) -> int:
    """Where a bar's label starts: at its end, or past a limit that would cross the label."""
    if limit is not None and 0 <= limit - size < _LABEL_WIDTH * span:
        return limit
    return size


def _label(axes: Axes, end: float, row: int, text: str) -> None:
    axes.annotate(
        text,
        (end, row),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        weight="bold",
        color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )


def _draw_limit(axes: Axes, position: float, limit: str) -> None:
    edge = axes.get_xlim()[1]
    left = position > 0.25 * edge
    text = f"limit of a device {limit}"
    if position <= edge:
        axes.axvline(position, color=_LIMIT_COLOUR, linewidth=1.4, zorder=2)
    axes.annotate(
        text if position <= edge else f"{text} →",
        (min(position, edge), -0.92),
        xytext=(-5 if left else 5, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        color=_LIMIT_COLOUR,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
    )


_NAME_LENGTH = 16


def partition_figure(partition: Partition) -> Figure:
    """Samples by label and device; the longer side lies across.

    Where there is room the counts and names are written; else places are numbered from 0 and the
    colour tells the count. One class alone gives a column for each device.
    """
    counts = np.array(partition.counts, dtype=float)
    if len(partition.class_names) == 1:
        return _column_figure(counts)
    classes = Side("class", tuple(shortened(name, _NAME_LENGTH) for name in partition.class_names))
    devices = Side("device", tuple(str(device) for device in range(len(counts))))
    if len(classes.labels) >= len(devices.labels):
        return map_figure(counts, devices, classes, "samples")
    return map_figure(counts.T, classes, devices, "samples")


def names_are_drawn(partition: Partition) -> bool:
    """Whether the figure writes the classes' names, not only their numbers."""
    return len(partition.class_names) <= MOST_NAMED


def _column_figure(counts: Float[np.ndarray, "device 1"]) -> Figure:
    figure = new_figure(240)
    axes = figure.subplots()
    stack_columns(axes, counts, (DEVICE_COLOUR,), 0)
    axes.set(xlabel="device", ylabel="samples")
    if len(counts) <= 24:
        for device, count in enumerate(counts[:, 0]):
            write_cell(axes, device, float(count), f"{count:,.0f}", MUTED, "bottom")
    return figure


def confusion_figure(details: EvaluationDetails) -> Figure:
    """How many samples of each class (rows) were taken for each (columns)."""
    names = tuple(shortened(name, _NAME_LENGTH) for name in details.class_names)
    counts = np.array(details.confusion, dtype=float)
    return map_figure(counts, Side("class", names), Side("taken for", names), "samples")


def device_score_figure(scores: Sequence[float], measure: str) -> Figure:
    """A column a device: its score as a test set with its own labels would measure it."""
    figure = new_figure(240)
    axes = figure.subplots()
    factor = 100 if measure == "accuracy" else 1
    heights = np.array([[factor * score if math.isfinite(score) else 0.0] for score in scores])
    stack_columns(axes, heights, (SCORE_COLOUR,), 0)
    axes.set(xlabel="device", ylabel=f"{measure}{' [%]' if factor == 100 else ''}")
    if len(scores) <= 24:
        for device, score in enumerate(scores):
            text = f"{factor * score:.3g}" if math.isfinite(score) else "-"
            write_cell(axes, device, float(heights[device, 0]), text, MUTED, "bottom")
    return figure


def shares_vary(works: Sequence[TrainedRound]) -> bool:
    """Whether any round had other shares than the first; records without shares have none."""
    return len({work.shares for work in works}) > 1


def shown_rounds(works: Sequence[TrainedRound]) -> int:
    """How many of the last rounds are drawn: as many as have room for their numbers."""
    return min(len(works), MOST_NAMED)


def share_figure(works: Sequence[TrainedRound]) -> Figure:
    """Percent of the bandwidth: a row for each device, a column for each of the last rounds."""
    percent = 100 * np.array([work.shares for work in works[-shown_rounds(works) :]]).T
    first = len(works) - shown_rounds(works) + 1
    rounds = Side("round", tuple(str(first + place) for place in range(percent.shape[1])))
    devices = Side("device", tuple(str(device) for device in range(len(percent))))
    return map_figure(percent, devices, rounds, "percent of the bandwidth")
