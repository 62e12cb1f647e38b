"""The picture of Fig. 4: the fitted surface, its sections, and what it misses.

Knows matplotlib and what was seen.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.report.drawing import INK, MUTED, new_figure
from cutlayer.report.vocabulary import OTHER_COLOUR
from reproduction.fig4_claims import BOX_BITS, MEAN_SQUARE, Seen, Surface, places
from reproduction.fig4_fit import falls

_BY_BITS = dict(
    zip((1, *BOX_BITS), ("#c9cfd8", "#f0a13c", "#b3560f", "#35ab9b", "#1f5a93"), strict=True)
)
_OURS = "#1f5a93"
# the picture needs fewer grid points than the shares do
_COARSER = 5


def draw(seen: Seen, setting: str) -> Figure:
    """Three panels under a line that says what was trained; call it inside `plain_style`."""
    figure = new_figure(430)
    field, sections, missed = figure.subplots(1, 3, width_ratios=(1.1, 1.1, 0.9))
    _field(field, seen.box)
    _sections(sections, seen)
    _missed(missed, seen)
    for axes in (sections, missed):
        axes.legend(loc="best", fontsize=9.5, handlelength=1.6)
    figure.suptitle(setting, x=0.005, ha="left", fontsize=10.5, color=MUTED)
    return figure


def _field(axes: Axes, box: Surface) -> None:
    """The surface as shades, the measured accuracies as numbers, hatched where it falls."""
    (low, high), (fewest, most) = box.keep_ratios, box.bits
    grid = box.grid[::_COARSER, ::_COARSER]
    along, up = np.linspace(low, high, grid.shape[1]), np.linspace(fewest, most, grid.shape[0])
    axes.contourf(along, up, grid, levels=10, cmap="Blues", alpha=0.75)
    down = falls(grid).astype(float)
    axes.contourf(along, up, down, levels=[0.5, 1.5], colors="none", hatches=["//"])
    for point, value in zip(box.points, box.measured, strict=True):
        axes.text(
            point.keep_ratio,
            point.bits,
            f"{value:.0f}",
            ha="center",
            va="center",
            fontsize=10,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.85},
        )
    axes.set_xlim(low - 0.04, high + 0.04)
    axes.set_ylim(fewest - 0.35, most + 0.35)
    axes.set_yticks(range(int(fewest), int(most) + 1))
    axes.grid(False)
    axes.set_title(f"(35) in the box, hatched where it falls ({100 * box.falling.either:.0f} %)")
    axes.set_xlabel("keep ratio; numbers: measured accuracy [%]")
    axes.set_ylabel("bits")


def _sections(axes: Axes, seen: Seen) -> None:
    """Accuracy by keep ratio, a colour for each number of bits."""
    low, high = seen.whole.keep_ratios
    for bits, colour in _BY_BITS.items():
        measured = [
            (point.keep_ratio, value)
            for point, value in zip(seen.whole.points, seen.whole.measured, strict=True)
            if point.bits == bits
        ]
        if measured:
            ratios, values = zip(*measured, strict=True)
            name = f"{bits} bit{'s' if bits > 1 else ''}"
            axes.plot(ratios, values, "o", color=colour, markersize=5, label=name)
        if bits in BOX_BITS:
            for surface, style in ((seen.box, "-"), (seen.whole, ":")):
                ends = surface.keep_ratios
                rho = np.linspace(*ends, 200)
                fitted = surface.fit.at(rho, np.full_like(rho, bits))
                axes.plot(rho, fitted, style, color=colour, linewidth=1.4)
    axes.plot([], [], "-", color=INK, linewidth=1.4, label="fit in the box")
    axes.plot([], [], ":", color=INK, linewidth=1.4, label="fit to all points")
    axes.set_xscale("log")
    ticks = [0.05, 0.1, 0.2, 0.3, 0.5, 1.0]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(0.9 * low, 1.1 * high)
    values = seen.whole.measured[np.isfinite(seen.whole.measured)]
    span = float(np.ptp(values)) or 1.0
    axes.set_ylim(values.min() - 0.25 * span, values.max() + 0.15 * span)
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.set_title("measured accuracy and fits")
    axes.set_xlabel("keep ratio")


def _missed(axes: Axes, seen: Seen) -> None:
    """Measured less fitted by fitted accuracy; the paper's root mean square as a band."""
    root = 100 * (float(MEAN_SQUARE) / 100) ** 0.5
    axes.axhspan(-root, root, color="#dfe3e8", linewidth=0, label=f"paper: RMS {root:.1f} points")
    axes.axhline(0, color=OTHER_COLOUR, linewidth=1.0)
    for surface, mark, filled in ((seen.whole, "s", False), (seen.box, "o", True)):
        fitted = surface.fit.at(*places(surface.points))
        axes.plot(
            fitted,
            surface.fit.residuals,
            mark,
            markersize=6 if filled else 7,
            color=_OURS,
            markerfacecolor=_OURS if filled else "none",
            label=f"{surface.name}: RMS {surface.fit.mean_square**0.5:.1f}",
        )
    axes.margins(y=0.25)
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.set_title("measured less fitted [points]")
    axes.set_xlabel("fitted accuracy")
