"""`sweep.html`: one self-contained page about a sweep, and its figures: mean curves with bands of
confidence, and scores against what they cost with the front that no settings beat.

Knows sweeps, not files; what stands where is the template's.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.report.compare_page import LABEL_LENGTH, line_style, scale_axis
from cutlayer.report.comparison import Point, target_text
from cutlayer.report.drawing import (
    GRID,
    MUTED,
    legend_columns,
    new_figure,
    plain_style,
    svg_element,
    whole_ticks,
)
from cutlayer.report.sweep import (
    SIGNIFICANCE,
    Cell,
    Front,
    Sweep,
    cell_table,
    difference_table,
    estimate,
    sweep_title,
)
from cutlayer.report.wording import byte_scale, render, time_scale

_BAND = 0.16


@dataclass(frozen=True)
class MeanCurve:
    """A cell's scores by evaluation, over its seeds: where they are, means, and bounds (NaN: of one
    seed alone)."""

    positions: Float64[np.ndarray, " evaluation"]
    means: Float64[np.ndarray, " evaluation"]
    lows: Float64[np.ndarray, " evaluation"]
    highs: Float64[np.ndarray, " evaluation"]


def mean_curve(cell: Cell, position: Callable[[Point], float]) -> MeanCurve:
    """Over the evaluations that all of its runs have; `position`: of each, whose mean counts."""
    runs = [run.points for run in cell.runs.values()]
    rows = []
    for points in zip(*runs, strict=False):
        found = estimate([point.score.value for point in points])
        where = math.fsum(map(position, points)) / len(points)
        if found is None:
            rows.append((where, math.nan, math.nan, math.nan))
            continue
        low = math.nan if found.low is None else found.low
        high = math.nan if found.high is None else found.high
        rows.append((where, found.mean, low, high))
    return MeanCurve(*np.array(rows, dtype=np.float64).reshape(-1, 4).T)


def curves_figure(sweep: Sweep) -> Figure:
    """Three panels: mean score by round, by time, by bytes up and down; a legend below."""
    cells = [cell for cell in sweep.cells if cell.runs]
    ends = [run.points[-1] for cell in cells for run in cell.runs.values()]
    time = time_scale(max(point.time_s for point in ends))
    size = byte_scale(max(point.sent_bytes for point in ends))
    panels: tuple[tuple[str, str, Callable[[Point], float]], ...] = (
        (f"{sweep.measure} by round", "round", lambda point: float(point.round)),
        ("by time", f"time [{time.unit}]", lambda point: point.time_s / time.unit_size),
        (
            "by bytes over the link",
            f"bytes, uplink and downlink [{size.unit}]",
            lambda point: point.sent_bytes / size.unit_size,
        ),
    )
    figure = new_figure(300 + _legend_height(cells))
    axes = list(figure.subplots(1, 3, sharey=True))
    for one, (title, label, position) in zip(axes, panels, strict=True):
        for number, cell in enumerate(cells):
            _draw_mean(one, mean_curve(cell, position), number, cell.label)
        one.set(title=title, xlabel=label)
        one.grid(visible=True, axis="x", color=GRID)
    whole_ticks(axes[0], 0, max(point.round for point in ends) + 1)
    scale_axis(
        axes[0], [point.score for cell in cells for r in cell.runs.values() for point in r.points]
    )
    _add_legend(figure, cells)
    return figure


def fronts_figure(sweep: Sweep, *, legend: bool = False) -> Figure:
    """A panel for each cost: every cell's mean score and cost with their intervals, and the front
    as a line; `legend`: for where no curves stand beside it."""
    fronts = sweep.fronts
    cells = [cell for cell in sweep.cells if cell.runs]
    figure = new_figure(320 + (_legend_height(cells) if legend else 0))
    axes = list(figure.subplots(1, len(fronts), sharey=True, squeeze=False)[0])
    for one, front in zip(axes, fronts, strict=True):
        _draw_front(one, sweep, front)
    axes[0].set_ylabel(sweep.quantity(f"{sweep.measure}_final").label)
    if legend:
        _add_legend(figure, cells)
    return figure


def _legend_height(cells: Sequence[Cell]) -> int:
    return 22 * math.ceil(len(cells) / _columns(cells))


def _columns(cells: Sequence[Cell]) -> int:
    return legend_columns([cell.label for cell in cells], LABEL_LENGTH)


def _add_legend(figure: Figure, cells: Sequence[Cell]) -> None:
    handles = [line_style(number, cell.label) for number, cell in enumerate(cells)]
    figure.legend(
        handles=handles, loc="outside lower left", ncols=_columns(cells), handlelength=2.6
    )


def _draw_mean(axes: Axes, curve: MeanCurve, number: int, label: str) -> None:
    line = line_style(number, label)
    line.set_data(curve.positions, curve.means)
    axes.add_line(line)
    if np.isfinite(curve.lows).any():
        axes.fill_between(
            curve.positions,
            curve.lows,
            curve.highs,
            color=line.get_color(),
            alpha=_BAND,
            linewidth=0,
        )
    axes.autoscale_view()


def _draw_front(axes: Axes, sweep: Sweep, front: Front) -> None:
    score = sweep.quantity(f"{sweep.measure}_final")
    paid_unit, unit = front.cost.scale.unit_size, score.scale.unit_size
    places: dict[str, tuple[float, float]] = {}
    numbers = {cell.label: n for n, cell in enumerate(c for c in sweep.cells if c.runs)}
    for cell in sweep.cells:
        good, paid = sweep.estimate(cell, score), sweep.estimate(cell, front.cost)
        if good is None or paid is None:
            continue
        places[cell.label] = (paid.mean / paid_unit, good.mean / unit)
        style = line_style(numbers[cell.label], cell.label)
        axes.errorbar(
            *places[cell.label],
            xerr=(paid.margin or 0.0) / paid_unit,
            yerr=(good.margin or 0.0) / unit,
            color=style.get_color(),
            marker=str(style.get_marker()),
            markersize=1.2 * style.get_markersize(),
            elinewidth=1.1,
            linestyle="none",
        )
    line = [places[cell.label] for cell in front.cells]
    if line:
        axes.plot(*zip(*line, strict=True), color=MUTED, linewidth=1.0, linestyle="--", zorder=1)
    axes.set_xlim(left=0)
    axes.set(title=f"against {front.cost.name}", xlabel=front.cost.label)
    axes.grid(visible=True, axis="x", color=GRID)


# The page.


def sweep_page(sweep: Sweep, failed: Mapping[str, str]) -> str:
    """The whole page as text; the same sweep gives the same text."""
    with plain_style():
        curves = svg_element(curves_figure(sweep), "curves", f"{sweep.measure} of all settings")
        fronts = svg_element(fronts_figure(sweep), "fronts", f"{sweep.measure} and its cost")
    compared = [
        (one.label, difference_table(sweep, one))
        for one in sweep.quantities
        if any(found.p is not None for found in sweep.differences(one).values())
    ]
    return render(
        "sweep.html",
        title=sweep_title(sweep),
        sweep=sweep,
        failed=failed,
        caption="Means over seeds; bands are 95 % confidence intervals of the mean.",
        front_text=_front_text(sweep),
        until=target_text(sweep.comparison),
        cells=cell_table(sweep),
        differences=compared,
        significance=f"{SIGNIFICANCE:g}",
        places=[(run.label, run.place) for run in sweep.comparison.runs],
        curves=Markup(curves),
        fronts=Markup(fronts),
    )


def _front_text(sweep: Sweep) -> str:
    """Which cells no other one beats."""
    told = [
        f"{front.cost.name}: {'; '.join(cell.label for cell in front.cells)}"
        for front in sweep.fronts
        if front.cells
    ]
    return f"Not beaten in both score and cost, the cheapest first: {'. '.join(told)}."
