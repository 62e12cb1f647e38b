"""The picture of Fig. 6: MiB by blocks, the device's limits, the published points.

Knows matplotlib and the curves.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.report.drawing import INK, MUTED, new_figure
from cutlayer.report.vocabulary import DEVICE_COLOUR, OTHER_COLOUR
from reproduction.fig6_curves import DEVICE_MIB, MICRO_BATCHES, SMALL_DEVICE_MIB, Curves

_OURS = "#1f5a93"
_EQUATIONS = "#b3560f"
_LIMIT = "#b3282d"
# Table III: the split schemes at 5 blocks, FL-LoRA
_PRINTED = ((5, 12), (4122.92, 9896.69))


def draw(curves: Curves, setting: str) -> Figure:
    """A line for each way of counting; call it inside `plain_style`."""
    figure = new_figure(430)
    axes = figure.subplots()
    _line(axes, curves.table, OTHER_COLOUR, "inferred accounting of Table III", "-")
    axes.plot(*_PRINTED, "D", color=INK, markersize=6, label="Table III as published")
    _line(axes, curves.keep, _OURS, "autograd, measured", "-")
    _line(axes, curves.equations, _EQUATIONS, "the paper's equations (33), (34)", "--")
    _line(axes, curves.checkpoint, DEVICE_COLOUR, "autograd, a checkpoint a block", "-")
    micro = f"autograd, {MICRO_BATCHES} micro-batches in turn"
    _line(axes, curves.micro, DEVICE_COLOUR, micro, "--")
    for limit, name in ((DEVICE_MIB, "8 GiB (Orin Nano)"), (SMALL_DEVICE_MIB, "4 GiB")):
        axes.axhline(limit, color=_LIMIT, linewidth=1.2)
        axes.text(0.55, limit + 90, name, color=_LIMIT, fontsize=10.5)
    axes.set_xlim(0.5, 12.5)
    axes.set_xticks(range(1, 13))
    axes.set_ylim(0, 10_600)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("transformer blocks on the device (12: the whole model)")
    axes.set_ylabel("MiB")
    figure.legend(loc="outside right center", handlelength=2.2, labelspacing=0.9)
    figure.suptitle(setting, x=0.005, ha="left", fontsize=10.5, color=MUTED)
    return figure


def _line(axes: Axes, sizes: tuple[float, ...], colour: str, label: str, style: str) -> None:
    blocks = range(1, len(sizes) + 1)
    axes.plot(blocks, sizes, style, color=colour, marker="o", markersize=3.5, label=label)
