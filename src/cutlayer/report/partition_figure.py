"""The figure of who holds what: samples by label and device, as a map of counts."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cutlayer.report.drawing import FIGURE_WIDTH, INK, MUTED, new_figure, stack_columns
from cutlayer.report.run_record import Partition
from cutlayer.report.vocabulary import DEVICE_COLOUR, shortened

_COLOURS = LinearSegmentedColormap.from_list("counts", ["#ffffff", "#b9d5ec", "#4a86bd", "#0d2b49"])
_MOST_NAMED = 50
_FEWEST_COLUMNS = 8
_NAME_LENGTH = 16
_LETTER_WIDTH = 7


@dataclass(frozen=True)
class _Side:
    """One side of the map: its title and the label of each row or column."""

    title: str
    labels: tuple[str, ...]


def partition_figure(partition: Partition) -> Figure:
    """Samples by label and device; the longer side lies across.

    Where there is room the counts and names are written; else places are numbered from 0 and the
    colour tells the count. One class alone gives a column for each device.
    """
    counts = np.array(partition.counts, dtype=float)
    if len(partition.class_names) == 1:
        return _column_figure(counts)
    classes = _Side("class", tuple(shortened(name, _NAME_LENGTH) for name in partition.class_names))
    devices = _Side("device", tuple(str(device) for device in range(len(counts))))
    if len(classes.labels) >= len(devices.labels):
        return _map_figure(counts, devices, classes)
    return _map_figure(counts.T, classes, devices)


def names_are_drawn(partition: Partition) -> bool:
    """Whether the figure writes the classes' names, not only their numbers."""
    return len(partition.class_names) <= _MOST_NAMED


def _column_figure(counts: Float[np.ndarray, "device 1"]) -> Figure:
    figure = new_figure(240)
    axes = figure.subplots()
    stack_columns(axes, counts, (DEVICE_COLOUR,), 0)
    axes.set(xlabel="device", ylabel="samples")
    if len(counts) <= 24:
        for device, count in enumerate(counts[:, 0]):
            _write(axes, device, float(count), f"{count:,.0f}", MUTED, "bottom")
    return figure


def _map_figure(counts: Float[np.ndarray, "row column"], down: _Side, across: _Side) -> Figure:
    rows, columns = counts.shape
    row_height = 30 if rows <= 12 else 22 if rows <= 24 else 15 if rows <= _MOST_NAMED else 7
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
        bar = figure.colorbar(image, ax=axes, fraction=0.02, pad=0.01, label="samples")
        bar.outline.set_visible(False)
    return figure


def _label_rows(axes: Axes, side: _Side) -> None:
    axes.set_ylabel(side.title)
    if len(side.labels) <= _MOST_NAMED:
        axes.set_yticks(range(len(side.labels)), side.labels)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))


def _label_columns(axes: Axes, side: _Side, turned: bool) -> None:
    axes.set_xlabel(side.title)
    if len(side.labels) > _MOST_NAMED:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=20, integer=True))
        return
    axes.set_xticks(range(len(side.labels)), side.labels)
    if turned:
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")


def _too_long(side: _Side) -> bool:
    count = len(side.labels)
    room = 0.88 * FIGURE_WIDTH / max(count, _FEWEST_COLUMNS)
    longest = max(len(label) for label in side.labels)
    return count <= _MOST_NAMED and longest * _LETTER_WIDTH > room


def _write_counts(axes: Axes, counts: Float[np.ndarray, "row column"]) -> None:
    rows, columns = counts.shape
    axes.hlines(np.arange(rows + 1) - 0.5, -0.5, columns - 0.5, color="white", linewidth=1.5)
    axes.vlines(np.arange(columns + 1) - 0.5, -0.5, rows - 0.5, color="white", linewidth=1.5)
    # the colour map turns dark at about a third of the largest count
    dark = counts > 0.35 * counts.max()
    for row, column in np.ndindex(rows, columns):
        count = counts[row, column]
        colour = "white" if dark[row, column] else INK if count > 0 else "#b6bec8"
        _write(axes, column, row, f"{count:.0f}", colour, "center")


def _write(axes: Axes, x: float, y: float, text: str, colour: str, vertical: str) -> None:
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
