"""The figure of what a device holds, by kind, against its limit and the whole model."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.report.drawing import INK, add_boxes, new_figure
from cutlayer.report.vocabulary import MEMORY_KINDS, word
from cutlayer.report.wording import bar_span, byte_scale
from cutlayer.train.records import Summary
from cutlayer.units import format_bytes

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
    """The kinds of memory of the summary in their usual order, unknown ones last."""
    given = summary.device_memory_bytes.keys()
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
