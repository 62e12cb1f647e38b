"""The figure of who holds what: samples by label and device, as a map of counts."""

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from cutlayer.report.drawing import MUTED, new_figure, stack_columns
from cutlayer.report.map_figure import MOST_NAMED, Side, map_figure, write_cell
from cutlayer.report.vocabulary import DEVICE_COLOUR, shortened
from cutlayer.train.records import Partition

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
