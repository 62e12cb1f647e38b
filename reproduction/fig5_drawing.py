"""The picture of Fig. 5: accuracy by round, a panel for each way to deal the samples.

Knows matplotlib and what was seen.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.profiling.training import standard_error
from cutlayer.report.drawing import INK, MUTED, new_figure, whole_ticks
from reproduction.fig5_claims import Seen
from reproduction.fig5_lines import (
    FL_FULL,
    LINES,
    PARTITIONS,
    PLAIN,
    SFT_BEST,
    SFT_PAPER,
    SL,
    SPLITLORA,
    Line,
    Partition,
)

# colour, line, width, marker
_LOOKS = {
    SFT_PAPER: ("#1f5a93", "-", 2.4, "o"),
    SFT_BEST: ("#35ab9b", "-", 2.4, "s"),
    PLAIN: (INK, "--", 1.6, ""),
    SL: ("#b3560f", "-", 1.4, "^"),
    SPLITLORA: ("#f0a13c", "-", 1.4, "v"),
    FL_FULL: ("#7657a6", ":", 1.8, "D"),
}


def draw(seen: Seen, setting: str) -> Figure:
    """Two panels under a line that says what was trained; call it inside `plain_style`."""
    figure = new_figure(470)
    panels = figure.subplots(1, len(PARTITIONS), sharey=True)
    for axes, partition in zip(panels, PARTITIONS, strict=True):
        _panel(axes, seen, partition)
    panels[0].set_ylabel("accuracy")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=2, handlelength=2.6)
    figure.suptitle(setting, x=0.005, ha="left", fontsize=10.5, color=MUTED)
    return figure


def accuracy_axes(axes: Axes, rounds: tuple[int, ...], accuracy: float, samples: int) -> None:
    """Rounds along, per cent up, and what one accuracy's chance error is [points]."""
    last = rounds[-1]
    axes.errorbar(
        [1.05 * last],
        [accuracy],
        yerr=[standard_error(accuracy, samples)],
        color=MUTED,
        linestyle="none",
        capsize=4,
        label=f"± 1 standard error on {samples} test samples",
    )
    axes.set_xlabel("round")
    axes.set_xlim(-0.02 * last, 1.1 * last)
    whole_ticks(axes, 0, last + 1)
    axes.yaxis.set_major_formatter("{x:g} %")


def _panel(axes: Axes, seen: Seen, partition: Partition) -> None:
    for line in LINES:
        colour, style, width, marker = _LOOKS[line]
        runs = seen.curves[partition, line]
        axes.plot(
            seen.rounds,
            seen.means(partition, line),
            linestyle=style,
            linewidth=width,
            marker=marker,
            markersize=5,
            color=colour,
            label=_label(seen, line),
        )
        if len(runs) > 1:
            by_round = list(zip(*runs, strict=True))
            low, high = [min(values) for values in by_round], [max(values) for values in by_round]
            axes.fill_between(seen.rounds, low, high, color=colour, alpha=0.12, linewidth=0)
    accuracy_axes(axes, seen.rounds, seen.last(partition, PLAIN), seen.test_samples)
    axes.set_title(partition.title)


def _label(seen: Seen, line: Line) -> str:
    """The line's name, and where it ends in either panel."""
    ends = " and ".join(f"{seen.last(partition, line):.1f}" for partition in PARTITIONS)
    return f"{line.title}: {ends} %"
