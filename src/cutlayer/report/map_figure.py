"""A map of numbers: named rows and columns, cells coloured, and written where there is room.

Knows neither what is counted nor which side lies across.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cutlayer.report.drawing import FIGURE_WIDTH, INK, new_figure

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
