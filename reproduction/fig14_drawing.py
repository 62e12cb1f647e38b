"""The picture of Fig. 14: accuracy by round, a line for each number of training samples.

Knows matplotlib and what was seen.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.report.drawing import INK, MUTED, new_figure
from cutlayer.report.vocabulary import OTHER_COLOUR
from reproduction.fig5_drawing import accuracy_axes
from reproduction.fig14_claims import STABLE, WITHIN, Seen, rounds_to_stable

_COLOURS = ("#9cc3e3", "#3f83bd", "#123f6b")


def draw(seen: Seen, setting: str) -> Figure:
    """One panel under a line that says what was trained; call it inside `plain_style`."""
    figure = new_figure(380)
    axes = figure.subplots()
    for colour, samples in zip(_COLOURS, sorted(seen.curves), strict=True):
        _line(axes, seen, samples, colour)
    accuracy_axes(axes, seen.rounds, seen.at(seen.fewest, seen.rounds[-1]), seen.test_samples)
    _marks(axes, seen.rounds[-1])
    axes.set_title("accuracy by round")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", handlelength=1.8)
    figure.suptitle(setting, x=0.005, ha="left", fontsize=10.5, color=MUTED)
    return figure


def _line(axes: Axes, seen: Seen, samples: int, colour: str) -> None:
    """The means, the range over seeds, and a ring where the accuracy is stable."""
    means, runs = seen.means(samples), seen.curves[samples]
    label = f"{samples} samples: {means[-1]:.1f} %"
    axes.plot(seen.rounds, means, "o-", color=colour, linewidth=1.8, markersize=4, label=label)
    if len(runs) > 1:
        by_round = list(zip(*runs, strict=True))
        low, high = [min(values) for values in by_round], [max(values) for values in by_round]
        axes.fill_between(seen.rounds, low, high, color=colour, alpha=0.15, linewidth=0)
    stable = rounds_to_stable(seen.rounds, means, seen.noise)
    ring = f"stable to within {seen.noise:.1f} points" if samples == seen.most else None
    axes.plot(
        [stable],
        [means[seen.rounds.index(stable)]],
        "o",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor=INK,
        label=ring,
    )


def _marks(axes: Axes, last: int) -> None:
    """The rounds that the paper tells of."""
    styles = (
        (WITHIN, "--", f"paper: round {WITHIN}"),
        (int(STABLE), ":", f"paper: stable by round {STABLE}"),
    )
    for number, style, label in styles:
        if number <= last:
            axes.axvline(number, color=OTHER_COLOUR, linewidth=1.2, linestyle=style, label=label)
