"""The benchmark's picture: what a bit buys, and what it costs in time.

Left, gradient cosine against bits per element for what goes up and what comes down; right, encode
and decode time over memcpy's. Knows rows, not how they were measured.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")

from contenders import Row
from matplotlib import pyplot
from matplotlib.axes import Axes

_OURS, _THEIRS = "#0b6e4f", "#5b6770"
Box = tuple[float, float, float, float]


_FLOOR = 1e-6
# where a label may go around its point [points], the nearest places first
_PLACES = tuple(
    (radius * x, radius * y)
    for radius in (9, 15, 22, 30, 40)
    for x, y in (
        (1, 0),
        (0, 1),
        (0, -1),
        (-1, 0),
        (0.8, 0.8),
        (0.8, -0.8),
        (-0.8, 0.8),
        (-0.8, -0.8),
    )
)


def draw(rows: Sequence[Row], about: dict[str, object], path: Path) -> None:
    """Write PATH as PNG and SVG."""
    pyplot.rcParams.update({"font.size": 9, "svg.fonttype": "none", "axes.spines.top": False})
    figure = pyplot.figure(figsize=(14, 10.5), layout="constrained")
    left, right = np.asarray(figure.subfigures(1, 2, width_ratios=(1.1, 1)))
    peers = list(dict.fromkeys(row.name for row in rows if not row.ours))
    names = {row.name: row.name for row in rows if row.ours}
    names |= {name: str(number) for number, name in enumerate(peers, 1)}
    axes = left.subplots(2, 1)
    _bars(right.subplots(), [row for row in rows if row.stream == "speed"], names)
    for own, stream, title in zip(
        axes, ("activation", "gradient"), ("activations up", "gradients down"), strict=True
    ):
        _scatter(own, [row for row in rows if row.stream == stream], title)
    figure.suptitle(_title(about), fontsize=11)
    # labels go where they are free, which is known only when all else has its place
    figure.canvas.draw()
    figure.set_layout_engine("none")
    for own, stream in zip(axes, ("activation", "gradient"), strict=True):
        _label(own, [row for row in rows if row.stream == stream], names)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=110)
    pyplot.close(figure)


def _title(about: dict[str, object]) -> str:
    quick = ", --quick" if about["quick"] else ""
    return f"cutlayer's codecs (green) and their peers (grey, numbered){quick}: {about['machine']}"


def _loss(row: Row) -> float:
    """1 - cosine, so that good ones are told apart; exact ones lie at the top."""
    assert row.gradient_cosine is not None
    return max(1.0 - row.gradient_cosine, _FLOOR)


def _scatter(axes: Axes, rows: Sequence[Row], title: str) -> None:
    for row in rows:
        axes.plot(row.bits, _loss(row), "o", color=_OURS if row.ours else _THEIRS, markersize=5)
    axes.set(xscale="log", yscale="log", title=title)
    axes.set(
        xlabel="bits per element", ylabel="1 - cosine of the adapter's gradient (less: better)"
    )
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.12)
    ticks = (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32)
    low, high = axes.get_xlim()
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(low, high)
    powers = range(-6, 1)
    axes.set_yticks([10.0**p for p in powers], ["exact", *(f"{10.0**p:g}" for p in powers[1:])])
    axes.grid(alpha=0.25)


def _label(axes: Axes, rows: Sequence[Row], names: Mapping[str, str]) -> None:
    """Each point's name at the first free place around it, ours first."""
    figure = axes.get_figure()
    assert figure is not None
    scale = figure.dpi / 72
    points = [axes.transData.transform((row.bits, _loss(row))) for row in rows]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    order = sorted(range(len(rows)), key=lambda place: not rows[place].ours)
    for place in order:
        row, (x, y) = rows[place], points[place]
        half = (2.6 * len(names[row.name]) + 1) * scale
        for right, up in _PLACES:
            # a label's middle is as far from its point as its half width asks for
            middle = x + right * scale + half * ((right > 0) - (right < 0)), y + up * scale
            box = middle[0] - half, middle[1] - 5 * scale, middle[0] + half, middle[1] + 5 * scale
            if not any(_overlap(box, other) for other in taken):
                break
        taken.append(box)
        colour = _OURS if row.ours else _THEIRS
        axes.annotate(
            names[row.name],
            (row.bits, _loss(row)),
            xytext=((middle[0] - x) / scale, (middle[1] - y) / scale),
            textcoords="offset points",
            ha="center",
            va="center",
            color=colour,
            fontsize=8,
            fontweight="bold" if row.ours else "normal",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.4, "shrinkA": 1, "shrinkB": 1},
        )


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _bars(axes: Axes, rows: Sequence[Row], names: Mapping[str, str]) -> None:
    places = range(len(rows))
    for offset, field, shade in ((-0.2, "encode_copies", 1.0), (0.2, "decode_copies", 0.5)):
        axes.barh(
            [place + offset for place in places],
            [getattr(row, field) for row in rows],
            height=0.38,
            color=[_OURS if row.ours else _THEIRS for row in rows],
            alpha=shade,
        )
    for place, row in zip(places, rows, strict=True):
        most = max(row.encode_copies, row.decode_copies)
        text = f"{row.encode_copies:.0f} / {row.decode_copies:.0f}"
        axes.text(most * 1.06, place, text, va="center", fontsize=8)
    axes.set_yticks(list(places), [_bar_name(row, names) for row in rows])
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="time over memcpy's of the same tensor (less: better)")
    axes.set_title("speed: encode (solid) / decode (pale)")
    axes.grid(axis="x", alpha=0.25)
    axes.margins(x=0.25, y=0.01)


def _bar_name(row: Row, names: Mapping[str, str]) -> str:
    short = row.name.replace(", paper's symbols", " (symbols)").replace(" (bitshuffle, zstd-1)", "")
    if row.ours:
        return f"{short}, {row.threads} threads" if row.threads > 1 else short
    return f"{short}  {names[row.name]}"
