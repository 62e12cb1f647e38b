"""The picture of Theorem 1: what SGD does against the bound's readings, in three cases.

Knows matplotlib and the cases.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.report.drawing import INK, MUTED, new_figure
from reproduction.theorem1_cases import KEPT, VALUES, Biased, Curve, Drift, Plain

_SGD = "#1f5a93"
_WRONG = "#c2410c"
# from light to dark with the number of local steps
_STEPS = ("#b9d3ea", "#7fb0d8", "#3f83bd", "#123f6b")


def draw(plain: Plain, biased: Biased, drift: Drift, setting: str) -> Figure:
    """Three panels under a line that says what was run; call it inside `plain_style`."""
    figure = new_figure(430)
    first, second, third = figure.subplots(1, 3, sharey=True)
    _plain(first, plain)
    _biased(second, biased)
    _drift(third, drift)
    for axes in (first, second, third):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.tick_params(axis="y", which="minor", size=0)
        axes.set_xlabel("round")
        axes.margins(x=0.02)
        axes.legend(loc="lower left", fontsize=10, handlelength=1.8)
    first.set_ylabel("gap, in % of the initial gap")
    first.set_ylim(0.011, 140)
    figure.suptitle(setting, x=0.005, ha="left", fontsize=10.5, color=MUTED)
    return figure


def _plain(axes: Axes, plain: Plain) -> None:
    axes.set_title("one local step, unbiased noise")
    _line(axes, plain.mended.gap, INK, "bound: (A.10) unrolled", "--")
    _line(axes, plain.sgd, _SGD, "SGD")
    _line(axes, plain.product, _WRONG, "(14) with N times (T-t)", ":")


def _biased(axes: Axes, biased: Biased) -> None:
    axes.set_title(f"Top-{KEPT} of {VALUES} values, unlike data")
    _line(axes, biased.mended.gap, INK, "bound with measured bias", "--")
    _line(axes, biased.sgd, _SGD, "SGD")
    _line(axes, biased.printed.gap, _WRONG, "(14): no bias", ":")


def _drift(axes: Axes, drift: Drift) -> None:
    axes.set_title("several local steps, unlike data")
    for colour, (steps, gap) in zip(_STEPS, drift.sgd.items(), strict=True):
        _line(axes, gap, colour, f"SGD, {steps} local step{'s' if steps > 1 else ''}")
    _line(axes, drift.printed.gap, _WRONG, "(14): no local steps", ":")


def _line(axes: Axes, gap: Curve, colour: str, label: str, style: str = "-") -> None:
    axes.plot(np.arange(len(gap)), 100 * gap, style, color=colour, linewidth=1.8, label=label)
