"""The picture of Fig. 10: minutes of a round by bandwidth, a panel for each reading of the links.

Knows matplotlib and the rounds.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from cutlayer.report.drawing import MUTED, new_figure
from reproduction.fig10_rounds import Delays
from reproduction.setting import SECONDS_PER_MINUTE

_LINES = {
    "optimal": ("optimal shares", "#1f5a93", "o"),
    "even": ("even shares", "#35ab9b", "s"),
    "random": ("random shares", "#b3560f", "^"),
}
_MINUTES = (20, 50, 100, 200, 400)
# of the draws, the middle ones that a band shows
_MIDDLE_PERCENT = (10, 90)


def draw(rounds: Mapping[float, Sequence[Delays]], setting: str) -> Figure:
    """Medians and the middle 80 % of the draws; call it inside `plain_style`."""
    figure = new_figure(360)
    bandwidths = list(rounds)
    panels = figure.subplots(1, len(rounds[bandwidths[0]]), sharey=True)
    for axes, delays in zip(panels, zip(*rounds.values(), strict=True), strict=True):
        for name in _LINES:
            _line(axes, bandwidths, [one.delay_s[name] for one in delays], name)
        axes.set_title(delays[0].reading.name)
        axes.set_xticks([bandwidth / 1e6 for bandwidth in bandwidths])
        axes.set_xlabel("bandwidth [MHz]")
    panels[0].set_yscale("log")
    panels[0].set_ylabel("delay of a round [min]")
    panels[0].set_yticks(_MINUTES, [f"{minutes:g}" for minutes in _MINUTES])
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(_LINES))
    figure.suptitle(setting, x=0.005, ha="left", fontsize=10.5, color=MUTED)
    return figure


def _line(
    axes: Axes, bandwidths: Sequence[float], delays_s: Sequence[np.ndarray], name: str
) -> None:
    label, colour, mark = _LINES[name]
    minutes = [delay_s / SECONDS_PER_MINUTE for delay_s in delays_s]
    megahertz = [bandwidth / 1e6 for bandwidth in bandwidths]
    low, high = (np.array([np.percentile(m, end) for m in minutes]) for end in _MIDDLE_PERCENT)
    axes.fill_between(megahertz, low, high, color=colour, alpha=0.15, linewidth=0)
    medians = [float(np.median(m)) for m in minutes]
    axes.plot(megahertz, medians, mark + "-", color=colour, markersize=4.5, label=label)
