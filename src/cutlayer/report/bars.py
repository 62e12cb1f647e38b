"""Horizontal bars: the numbers that are compared with in grey, ours in colour, each with its value.

Knows matplotlib and no run. `PAPER_COLOUR`: of the paper's numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.report.drawing import INK, MUTED
from cutlayer.report.vocabulary import OTHER_COLOUR

OURS = "#1f5a93"
OURS_LIGHT = "#8cbde4"
_THICKNESS = 0.38


@dataclass(frozen=True)
class Series:
    """A bar for each row, None where there is none; `digits` after the point of a value."""

    label: str
    values: Sequence[float | None]
    colour: str
    digits: int = 1


PAPER_COLOUR = OTHER_COLOUR


def draw_bars(axes: Axes, rows: Sequence[str], series: Sequence[Series], unit: str) -> None:
    """One group of bars for each row, from the top down; room for the longest bar's value."""
    thickness = min(_THICKNESS, 0.8 / len(series))
    for place, one in enumerate(series):
        offset = (place - (len(series) - 1) / 2) * thickness
        places = [row + offset for row, value in enumerate(one.values) if value is not None]
        values = [value for value in one.values if value is not None]
        axes.barh(places, values, height=0.9 * thickness, color=one.colour, label=one.label)
        for at, value in zip(places, values, strict=True):
            axes.annotate(
                f"{value:,.{one.digits}f}",
                (value, at),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=10.5,
                color=INK,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            )
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.grid(True, axis="x")
    axes.set_xlabel(unit)
    longest = max(value for one in series for value in one.values if value is not None)
    axes.set_xlim(0, 1.17 * longest)
    axes.xaxis.set_major_formatter("{x:,g}")


def legend_and_title(figure: Figure, legends: Sequence[Axes], setting: str) -> None:
    """One legend under all panels, and the setting above them."""
    known: dict[str, Artist] = {}
    for axes in legends:
        handles, labels = axes.get_legend_handles_labels()
        known |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(known.values()),
        list(known),
        loc="outside lower left",
        ncols=len(known),
        handlelength=1.6,
    )
    figure.suptitle(setting, x=0.005, ha="left", fontsize=10.5, color=MUTED)
