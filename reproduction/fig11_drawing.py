"""The picture of Fig. 11: minutes of each scheme beside the paper's, on two data sets.

Knows matplotlib and the numbers that it is given.
"""

from matplotlib.figure import Figure

from cutlayer.report.bars import OURS, PAPER_COLOUR, Series, draw_bars, legend_and_title
from cutlayer.report.drawing import MUTED, new_figure
from reproduction.evaluation import NAMES, Evaluation
from reproduction.fit import FL_MINUTES, PRINTED_MINUTES

# the text's minutes, on CIFAR-100 alone
PRINTED: dict[str, float] = {
    name: float(FL_MINUTES if name == "fl-lora" else PRINTED_MINUTES[name]) for name in NAMES
}


def draw(cifar: Evaluation, tiny: Evaluation, setting: str) -> Figure:
    """Two panels under a line that says what was computed; call it inside `plain_style`."""
    figure = new_figure(430)
    left, right = figure.subplots(1, 2)
    names = list(NAMES)
    ours = f"ours, after {cifar.rounds:.2f} epochs of each scheme"
    draw_bars(
        left,
        list(NAMES.values()),
        [
            Series("paper", [PRINTED[name] for name in names], PAPER_COLOUR),
            Series(ours, [cifar.minutes[name] for name in names], OURS),
        ],
        "virtual time [min]",
    )
    left.set_title("CIFAR-100, 50,000 samples")
    draw_bars(
        right,
        list(NAMES.values()),
        [Series(ours, [tiny.minutes[name] for name in names], OURS)],
        "virtual time [min]",
    )
    right.set_title("Tiny-ImageNet, 100,000 samples (no number in the text)")
    left.annotate(
        f"(that is {cifar.fl_rounds:.1f} epochs of FL)",
        (float(FL_MINUTES), names.index("fl-lora") - 0.19),
        xytext=(40, 0),
        textcoords="offset points",
        va="center",
        fontsize=10,
        color=MUTED,
    )
    legend_and_title(figure, (left, right), setting)
    return figure
