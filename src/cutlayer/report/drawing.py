"""How figures are drawn and kept: one plain style, filled boxes, bars; inline SVG and files.

Knows matplotlib and no run. Uses no pyplot; the settings hold only inside `plain_style`, and the
same figure gives the same bytes.
"""

import csv
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import MaxNLocator

from cutlayer.files import write_atomically, write_text

# of a page
FIGURE_WIDTH = 1080
# of the text of a paper in two columns
_PAPER_WIDTH = 516
INK = "#1d2733"
MUTED = "#66717e"
GRID = "#e4e8ed"
_PIXELS_PER_INCH = 72
_LETTERS, _PAPER_LETTERS = 11.5, 8.0


@contextmanager
def plain_style() -> Iterator[None]:
    """Draw in one style, whatever the user's matplotlibrc says; settings are restored after."""
    with _style(FIGURE_WIDTH, 1.0):
        yield


@contextmanager
def paper_style() -> Iterator[None]:
    """The same style for print: smaller figures, letters of 8 points, TrueType fonts."""
    with _style(_PAPER_WIDTH, _PAPER_LETTERS / _LETTERS):
        yield


@contextmanager
def _style(width: int, scale: float) -> Iterator[None]:
    with mpl.rc_context(), warnings.catch_warnings():
        # a browser has the letters that matplotlib's font lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "svg.fonttype": "none",  # text stays text: small, searchable, in the page's font
                "pdf.fonttype": 42,  # TrueType: what journals ask for
                "text.parse_math": False,  # a class may be called $x$
                "font.family": "DejaVu Sans",
                "font.size": _LETTERS * scale,
                "text.color": INK,
                "axes.edgecolor": "#b6bec8",
                "axes.labelcolor": MUTED,
                "axes.labelsize": _LETTERS * scale,
                "axes.titlesize": 12.5 * scale,
                "axes.titlelocation": "left",
                "axes.titlepad": 10.0 * scale,
                "axes.axisbelow": True,
                "axes.grid": True,
                "axes.grid.axis": "y",
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.spines.left": False,
                "grid.color": GRID,
                "xtick.color": "#b6bec8",
                "ytick.color": "#b6bec8",
                "xtick.labelcolor": INK,
                "ytick.labelcolor": INK,
                "xtick.labelsize": 11.0 * scale,
                "ytick.labelsize": 11.0 * scale,
                "ytick.major.size": 0.0,
                "lines.linewidth": 1.7 * scale,
                "lines.markersize": 5.5 * scale,
                "legend.frameon": False,
                "figure.figsize": (width / _PIXELS_PER_INCH, 4.0 * scale),
                "figure.constrained_layout.wspace": 0.04,
                "figure.facecolor": "none",
                "axes.facecolor": "none",
                "savefig.facecolor": "none",
            }
        )
        yield


def new_figure(height: int) -> Figure:
    """An empty figure as wide as the page and `height` pixels high, laid out without overlaps; on
    paper, as wide as the text, and lower as its letters are."""
    width, _ = mpl.rcParams["figure.figsize"]
    size = (width, height / _PIXELS_PER_INCH * mpl.rcParams["font.size"] / _LETTERS)
    return Figure(figsize=size, dpi=_PIXELS_PER_INCH, layout="constrained")


def legend_columns(labels: Sequence[str], longest: int) -> int:
    """As many as fit across the figure, by the longest label, of which `longest` letters are shown:
    about 8 px a letter, 70 px a line."""
    letters = max(min(len(label), longest) for label in labels)
    width, _ = mpl.rcParams["figure.figsize"]
    room = width * _PIXELS_PER_INCH * _LETTERS / mpl.rcParams["font.size"] - 40
    return max(1, min(len(labels), int(room) // (8 * letters + 70)))


def add_boxes(axes: Axes, boxes: Float[np.ndarray, "box 4"], colour: str) -> None:
    """Fill boxes (left, right, bottom, top; data units) in one colour, as one element.

    The axes' limits are not changed.
    """
    visible = boxes[(boxes[:, 1] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 2])]
    if not len(visible):
        return
    left, right, bottom, top = visible.T
    corners = [(left, bottom), (right, bottom), (right, top), (left, top)]
    polygons = np.stack([np.stack(corner, axis=-1) for corner in corners], axis=1)
    outline = Outline.make_compound_path_from_polys(polygons)
    axes.add_artist(PathPatch(outline, facecolor=colour, edgecolor="none", linewidth=0))


def stack_columns(
    axes: Axes,
    heights: Float[np.ndarray, "column kind"],
    colours: Sequence[str],
    first: int,
    width: float | None = None,
) -> None:
    """Stacked columns at `first`, first + 1, ..., one colour a kind; sets both limits."""
    count = len(heights)
    width = column_width(count) if width is None else width
    tops = np.cumsum(heights, axis=1)
    bottoms = tops - heights
    middles = np.arange(first, first + count, dtype=float)
    for kind, colour in enumerate(colours):
        sides = (middles - width / 2, middles + width / 2, bottoms[:, kind], tops[:, kind])
        add_boxes(axes, np.stack(sides, axis=1), colour)
    column_limits(axes, first, count, float(tops.max(initial=0.0)))


def column_width(count: int) -> float:
    """The width of each of `count` columns, in columns: gaps only while there is room for them."""
    return 0.72 if count <= 40 else 0.86 if count <= 120 else 1.0


def column_limits(axes: Axes, first: int, count: int, largest: float) -> None:
    """Room for `count` columns of at most the height `largest`; a few keep their width, in the
    middle."""
    beside = max(6 - count, 0) / 2
    axes.set_xlim(first - 0.6 - beside, first + count - 0.4 + beside)
    axes.set_ylim(0, 1.12 * largest if largest > 0 else 1)
    whole_ticks(axes, first, count)


def whole_ticks(axes: Axes, first: int, count: int) -> None:
    """Ticks at whole numbers from `first`, no more than `count` and no more than fit."""
    last = first + count - 1
    ticks = MaxNLocator(nbins=11, integer=True, steps=[1, 2, 5, 10]).tick_values(first, last)
    if count <= 12:
        ticks = range(first, first + count)
    axes.set_xticks([float(tick) for tick in ticks if first <= tick <= last])


def svg_element(figure: Figure, name: str, description: str) -> str:
    """The figure as an `<svg>` element to stand inside a page; `name` makes its ids its own."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    written = buffer.getvalue()
    body = written[written.index(">", written.index("<svg")) + 1 :]
    # the style would hold for the whole page, the groups' ids repeat in every figure
    body = re.sub(r"<style .*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    width, height = (round(inches * _PIXELS_PER_INCH) for inches in figure.get_size_inches())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(description)}">{body}'
    )


OURS = "#1f5a93"
_THICKNESS = 0.38


@dataclass(frozen=True)
class Series:
    """A bar for each row, None where there is none; `digits` after the point of a value."""

    label: str
    values: Sequence[float | None]
    colour: str
    digits: int = 1


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


_PNG_DPI = 144


def save_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """A CSV file with a heading. Raises RunError: cannot be written."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())
    return path


def save_figure(path: Path, figure: Figure) -> tuple[Path, Path]:
    """`path` with .png and .svg, on white; the same figure gives the same bytes.

    Call it inside `plain_style`. Raises RunError: cannot be written.
    """
    png, svg = path.with_suffix(".png"), path.with_suffix(".svg")
    write_atomically(
        png,
        lambda to: figure.savefig(
            to, format="png", dpi=_PNG_DPI, facecolor="white", metadata={"Software": None}
        ),
    )
    with mpl.rc_context({"svg.hashsalt": path.name}):
        write_atomically(
            svg,
            lambda to: figure.savefig(to, format="svg", facecolor="white", metadata={"Date": None}),
        )
    return png, svg


def save_pdf(path: Path, figure: Figure, title: str) -> Path:
    """The figure as a PDF; the same figure gives the same bytes. Call it inside `paper_style`.
    Raises RunError: cannot be written."""
    metadata = {"Title": title, "CreationDate": None, "Creator": None, "Producer": None}
    write_atomically(path, lambda to: figure.savefig(to, format="pdf", metadata=metadata))
    return path
