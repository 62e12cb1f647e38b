"""The picture of the headline numbers: minutes beside the paper's, and how well each reading fits.

Knows matplotlib and the numbers that it is given.
"""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.report.bars import OURS, PAPER_COLOUR, Series, draw_bars, legend_and_title
from cutlayer.report.drawing import INK, new_figure
from reproduction.evaluation import NAMES, Evaluation
from reproduction.fig11_drawing import PRINTED
from reproduction.fit import Fit

_MARKS = {"sft": "o", "sft-uncompressed": "s", "splitlora-paper": "^", "sl": "D"}
_COLOURS = {
    "sft": "#1f5a93",
    "sft-uncompressed": "#35ab9b",
    "splitlora-paper": "#b3560f",
    "sl": "#7657a6",
}


def draw(cifar: Evaluation, fits: Mapping[str, Fit], setting: str) -> Figure:
    """Two panels under a line that says what was computed; call it inside `plain_style`."""
    figure = new_figure(430)
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.0))
    draw_bars(
        left,
        list(NAMES.values()),
        [
            Series("paper", [PRINTED[name] for name in NAMES], PAPER_COLOUR),
            Series(
                f"ours, {cifar.local_steps:.1f} local steps",
                [cifar.minutes[name] for name in NAMES],
                OURS,
            ),
        ],
        "virtual time [min]",
    )
    left.set_title("minutes to the highest accuracy")
    _readings(right, fits)
    legend_and_title(figure, (left, right), setting)
    return figure


def _readings(axes: Axes, fits: Mapping[str, Fit]) -> None:
    """Each scheme's deviation under each reading, each with its own best number of steps."""
    for place, (name, mark) in enumerate(_MARKS.items()):
        # one above the other, since they may coincide
        offset = 0.16 * (place - (len(_MARKS) - 1) / 2)
        axes.plot(
            [100 * found.deviations[name] for found in fits.values()],
            [row + offset for row in range(len(fits))],
            mark,
            color=_COLOURS[name],
            markersize=6,
            label=NAMES[name],
        )
    axes.axvspan(-5, 5, color="#dfe3e8", zorder=0.3, label="within 5 %")
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(
        range(len(fits)),
        [f"{name}\n{found.local_steps:.0f} steps" for name, found in fits.items()],
    )
    axes.invert_yaxis()
    axes.grid(True, axis="x")
    axes.set_title("what each reading of the setting makes of them")
    axes.set_xlabel("deviation from the paper's minutes [%]")
