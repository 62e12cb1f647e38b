"""The picture of Fig. 7: accuracy by sparsity, accuracy by bits, and the compression ratios.

Knows matplotlib and what was seen; draws the paper's claims in grey beside it.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cutlayer.report.drawing import INK, MUTED, new_figure
from cutlayer.report.vocabulary import DEVICE_COLOUR, OTHER_COLOUR
from reproduction.fig7_claims import (
    CODED_RATIO,
    FLOAT32_BITS,
    MOST_LOST,
    PAPER_WIDTH,
    SPARSIFIED_RATIO,
    Seen,
    indexed_ratio,
)
from reproduction.fig7_grid import (
    BY_BITS,
    BY_SPARSITY,
    CLAIMED,
    SPARSEST_CLAIMED,
    UNCOMPRESSED,
    Point,
)

Spread = tuple[float, float]
_OURS = "#1f5a93"
_BAND = "#dfe3e8"


def draw(seen: Seen, spreads: Mapping[Point, Spread], setting: str) -> Figure:
    """Three panels under a line that says what was trained; call it inside `plain_style`."""
    figure = new_figure(430)
    by_sparsity, by_bits, ratios = figure.subplots(1, 3, width_ratios=(1.15, 1.0, 0.95))
    _accuracy(by_sparsity, seen, spreads, BY_SPARSITY, lambda point: point.sparsity)
    _accuracy(by_bits, seen, spreads, BY_BITS, lambda point: float(point.bits))
    _claims_by_sparsity(by_sparsity, seen)
    _claims_by_bits(by_bits, seen)
    for axes in (by_sparsity, by_bits):
        axes.margins(y=0.13)
    _ratios(ratios, seen)
    handles, labels = by_sparsity.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), handlelength=1.6)
    figure.suptitle(setting, x=0.005, ha="left", fontsize=10.5, color=MUTED)
    return figure


def _accuracy(
    axes: Axes,
    seen: Seen,
    spreads: Mapping[Point, Spread],
    points: Sequence[Point],
    position: Callable[[Point], float],
) -> None:
    """A line through the means, and an upright one from the lowest to the highest seed."""
    trained = [point for point in points if point in seen.accuracy]
    positions = [position(point) for point in trained]
    means = [seen.accuracy[point] for point in trained]
    axes.plot(positions, means, "o-", color=_OURS, linewidth=1.8, markersize=5, label="ours")
    low, high = ([spreads[point][end] for point in trained] for end in (0, 1))
    axes.vlines(positions, low, high, color=_OURS, linewidth=1.2)
    for place, point in enumerate(trained):
        if math.isfinite(means[place]):
            _label(axes, positions, means, place, bold=point == CLAIMED)
    axes.axhline(
        seen.accuracy[UNCOMPRESSED],
        color=INK,
        linewidth=1.2,
        linestyle="--",
        label=f"uncompressed, {seen.accuracy[UNCOMPRESSED]:.1f} %",
    )
    axes.yaxis.set_major_formatter("{x:g} %")


def _label(
    axes: Axes, positions: Sequence[float], values: Sequence[float], place: int, *, bold: bool
) -> None:
    """The value beside its point, where the line does not go."""
    here = values[place]
    steps = [here - values[place - 1]] if place else []
    steps += [after - here for after in values[place + 1 : place + 2]]
    enters, leaves = (steps[0], steps[-1]) if steps else (0.0, 0.0)
    if enters * leaves < 0:  # a peak or a valley
        side, offset, edge = (
            "center",
            (0, -9 if enters > 0 else 7),
            "top" if enters > 0 else "bottom",
        )
    else:
        side, offset, edge = ("left", (5, -4), "top") if enters > 0 else ("right", (-5, -4), "top")
    axes.annotate(
        f"{here:.1f}",
        (positions[place], here),
        xytext=offset,
        textcoords="offset points",
        ha=side,
        va=edge,
        fontsize=10,
        color=INK,
        weight="bold" if bold else "normal",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.2},
    )


def _claims_by_sparsity(axes: Axes, seen: Seen) -> None:
    axes.set_title(f"accuracy by sparsity, {CLAIMED.bits} bits")
    axes.set_xlabel("values dropped [%]")
    axes.set_xticks([0, 25, 50, 70, 80, 90])
    axes.set_xlim(-14, 101)
    _band(axes, seen, 0, CLAIMED.sparsity)
    axes.axvline(
        SPARSEST_CLAIMED.sparsity,
        color=OTHER_COLOUR,
        linewidth=1.2,
        linestyle=":",
        label="paper: a sharp drop from here",
    )


def _claims_by_bits(axes: Axes, seen: Seen) -> None:
    axes.set_title(f"accuracy by bits, {CLAIMED.sparsity:g} % dropped")
    axes.set_xlabel("bits of a kept value's level")
    axes.set_xticks([point.bits for point in BY_BITS])
    last = max(point.bits for point in BY_BITS)
    axes.set_xlim(0.5, last + 1.0)
    _band(axes, seen, CLAIMED.bits, last + 1.0)


def _band(axes: Axes, seen: Seen, first: float, last: float) -> None:
    """Where the paper's curve is, to the right of `first` and to the left of `last`."""
    top, height = seen.accuracy[UNCOMPRESSED], float(MOST_LOST)
    if math.isfinite(top):
        box = Rectangle((first, top - height), last - first, height, facecolor=_BAND, linewidth=0)
        box.set_label(f"paper: at most {MOST_LOST} points lost")
        box.set_zorder(0.4)
        axes.add_patch(box)


def _ratios(axes: Axes, seen: Seen) -> None:
    """A bar for each ratio, the paper's in grey, ours in colour."""
    coded, plus = (FLOAT32_BITS / bits[CLAIMED] for bits in (seen.bits, seen.bits_plus))
    bars = [
        ("paper, index and bits", float(SPARSIFIED_RATIO), OTHER_COLOUR),
        (f"computed, width {PAPER_WIDTH}", _indexed(PAPER_WIDTH), _OURS),
        (f"computed, width {seen.width}", _indexed(seen.width), _OURS),
        ("paper, lossless coding", float(CODED_RATIO), OTHER_COLOUR),
        ("measured, codec paper", coded, _OURS),
        ("measured, paper-rans", plus, DEVICE_COLOUR),
    ]
    places = range(len(bars))
    names, values, colours = zip(*bars, strict=True)
    axes.barh(places, values, color=colours, height=0.62)
    for place, value in zip(places, values, strict=True):
        if math.isfinite(value):
            axes.text(value, place, f" {value:.1f}x", va="center", fontsize=10.5, color=INK)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.margins(x=0.2)
    axes.set_title(f"times fewer bytes, {CLAIMED.sparsity:g} % and {CLAIMED.bits} bits")
    axes.set_xlabel("float32 / sent")


def _indexed(width: int) -> float:
    return indexed_ratio(width, CLAIMED, sign=False)
