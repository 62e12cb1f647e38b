"""The picture of Fig. 9: Algorithm 2 as published and corrected, and Algorithm 3, by iteration.

Knows matplotlib and the cases.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.planner.configuration import ConfigurationSolution
from cutlayer.report.drawing import INK, MUTED, new_figure, whole_ticks
from reproduction.fig9_case import Case

# from light to dark with the number of devices
_COLOURS = ("#a9c9e6", "#6ba3d0", "#2f76b3", "#123f6b")
_LAGRANGIAN, _DELAY = "s--", "o-"
# of the shortest round [%]: below it deadlines are equal but for rounding
_EQUAL = 1e-9


def draw(cases: Sequence[Case], setting: str) -> Figure:
    """Three panels under a line that says what was computed; call it inside `plain_style`."""
    figure = new_figure(430)
    printed, mended, shares = figure.subplots(1, 3)
    for colour, case in zip(_COLOURS, cases, strict=True):
        _run(printed, case, case.published, colour)
        _run(mended, case, case.mended, colour)
        _excess(shares, case, colour)
    printed.set_title("Algorithm 2 as published")
    printed.set_ylim(0, 4.4)
    mended.set_title("Algorithm 2 corrected")
    shares.set_title("Algorithm 3 as published")
    shares.set_yscale("log")
    shares.yaxis.set_major_formatter("{x:g}")
    shares.set_ylabel("above the best shares [%]")
    for axes in (printed, mended):
        axes.set_ylabel("times the shortest round")
    end = cases[0].published.history[-1].choice
    at = f"cut {end.cut}, keep ratio {end.keep_ratio:g}, {end.bits:g} bits"
    printed.text(1.0, 3.5, at, color=INK, fontsize=10.5)
    for axes, runs in (
        (printed, [case.published for case in cases]),
        (mended, [case.mended for case in cases]),
    ):
        axes.axhline(1.0, color=INK, linewidth=1.0, zorder=0.5)
        whole_ticks(axes, 1, max(len(run.history) for run in runs))
    whole_ticks(shares, 0, max(len(case.deadlines_s) for case in cases))
    for axes in (printed, mended, shares):
        axes.set_xlabel("iteration")
        axes.margins(x=0.06)
    _legends(printed, mended)
    figure.suptitle(setting, x=0.005, ha="left", fontsize=10.5, color=MUTED)
    return figure


def _run(axes: Axes, case: Case, found: ConfigurationSolution, colour: str) -> None:
    """Lagrangian and delay; the iterations are numbered from 1."""
    numbers = range(1, len(found.history) + 1)
    lagrangian = [step.lagrangian_s / case.best.delay_s for step in found.history]
    delay = [step.choice.delay_s / case.best.delay_s for step in found.history]
    axes.plot(numbers, lagrangian, _LAGRANGIAN, color=colour, markersize=4, linewidth=1.2)
    axes.plot(numbers, delay, _DELAY, color=colour, linewidth=1.8, label=f"{case.devices} devices")


def _excess(axes: Axes, case: Case, colour: str) -> None:
    """The deadline above that of the best shares, as long as it is."""
    excess = [100 * (each / case.best_deadline_s - 1) for each in case.deadlines_s]
    above = [each for each in excess if each > _EQUAL]
    axes.plot(range(len(above)), above, _DELAY, color=colour, linewidth=1.8)


def _legends(printed: Axes, mended: Axes) -> None:
    printed.plot([], [], _DELAY, color=MUTED, label="delay")
    printed.plot([], [], _LAGRANGIAN, color=MUTED, markersize=4, label="Lagrangian")
    printed.plot([], [], color=INK, linewidth=1.0, label="shortest round")
    handles, labels = printed.get_legend_handles_labels()
    printed.legend(handles[-3:], labels[-3:], loc="center left", fontsize=10)
    mended.legend(loc="lower right", fontsize=10)
