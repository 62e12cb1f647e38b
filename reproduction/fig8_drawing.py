"""The picture of Fig. 8: gigabytes of a whole training, and of a round by way of compressing.

Knows matplotlib and the numbers that it is given.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.report.bars import OURS, PAPER_COLOUR, Series, draw_bars, legend_and_title
from cutlayer.report.drawing import INK, new_figure
from reproduction.evaluation import NAMES, Evaluation
from reproduction.fig7_grid import CLAIMED
from reproduction.fig8_claims import (
    SENT_PERCENT,
    SFT_GIGABYTES,
    SL_GIGABYTES,
    UNCOMPRESSED_GIGABYTES,
)
from reproduction.fig8_methods import Method

PRINTED: dict[str, float] = {
    "sft": SFT_GIGABYTES,
    "sft-uncompressed": UNCOMPRESSED_GIGABYTES,
    "sl": float(SL_GIGABYTES),
}


def draw(cifar: Evaluation, methods: Sequence[Method], round_gb: float, setting: str) -> Figure:
    """Two panels under a line that says what was computed; call it inside `plain_style`."""
    figure = new_figure(440)
    left, right = figure.subplots(1, 2)
    draw_bars(
        left,
        list(NAMES.values()),
        [
            Series("paper (SL as published, others by its ratios)", _printed(), PAPER_COLOUR),
            Series(
                f"ours, {cifar.rounds:.2f} epochs (FL {cifar.fl_rounds:.1f})",
                [sum(cifar.gigabytes(name).values()) for name in NAMES],
                OURS,
            ),
        ],
        "sent and received by all devices [GB]",
    )
    left.set_title("(a) a whole training")
    _by_method(right, methods, round_gb)
    legend_and_title(figure, (left, right), setting)
    return figure


def _printed() -> list[float | None]:
    return [PRINTED.get(name) for name in NAMES]


def _by_method(axes: Axes, methods: Sequence[Method], round_gb: float) -> None:
    names = [f"{method.name}, {method.percent:.3g} %" for method in methods]
    values = [round_gb * method.percent / 100 for method in methods]
    draw_bars(
        axes, names, [Series("", values, OURS, digits=2)], "sent in a round of one epoch [GB]"
    )
    axes.axvline(
        round_gb * float(SENT_PERCENT) / 100,
        color=INK,
        linewidth=1.2,
        linestyle=":",
        label=f"paper: {SENT_PERCENT} % of the activations",
    )
    axes.set_title(f"(b) a round, {CLAIMED.sparsity:g} % dropped, {CLAIMED.bits} bits")
