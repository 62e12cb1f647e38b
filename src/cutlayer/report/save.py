"""Figures and tables onto the disk: PNG, SVG and CSV, each whole or not at all."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from cutlayer.train.files import write_atomically, write_text

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
