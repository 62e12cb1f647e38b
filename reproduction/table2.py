"""Table II of the paper: its parameters beside its text and what its results imply.

Arithmetic alone. Knows what is written and how it is drawn; the numbers are in `table2_rows`.
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from cutlayer.report.drawing import GRID, INK, MUTED, new_figure, plain_style
from cutlayer.report.save import save_figure, save_table
from reproduction.claims import CLAIM_COLUMNS, Verdict, claim_rows
from reproduction.options import Made, Options
from reproduction.table2_rows import Row, rows

SETTING = "the paper's parameters, three times over; computed, nothing is trained"
COLUMNS = ("parameter", "table_ii", "text", "results_imply", "verdict")
_HEADINGS = ("parameter", "Table II", "the text", "the results imply", "verdict")
_LEFT = (0.0, 0.16, 0.43, 0.65, 0.86)
_WRONG = "#b3282d"
_RIGHT = "#0e6b61"


def make(options: Options, output: Path) -> Made:
    """Write table2.csv, table2-claims.csv, .png and .svg. No option matters.

    Raises RunError for an output that cannot be written.
    """
    found = rows()
    claims = tuple(row.claim for row in found if row.claim is not None)
    output.mkdir(parents=True, exist_ok=True)
    tables = (
        save_table(output / "table2.csv", COLUMNS, (_cells(row) for row in found)),
        save_table(output / "table2-claims.csv", CLAIM_COLUMNS, claim_rows(claims)),
    )
    with plain_style():
        pictures = save_figure(output / "table2", draw(found))
    return Made(SETTING, claims, (*tables, *pictures))


def draw(found: Sequence[Row]) -> Figure:
    """The table as a picture; call it inside `plain_style`."""
    figure = new_figure(90 + 31 * len(found))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(len(found) + 0.2, -1.4)
    _line(figure, -1, _HEADINGS, MUTED)
    for place, row in enumerate(found):
        axes.axhline(place - 0.5, color=GRID, linewidth=1)
        _line(figure, place, _cells(row), INK)
    figure.suptitle(SETTING, x=0.005, ha="left", fontsize=10.5, color=MUTED)
    return figure


def _line(figure: Figure, place: float, cells: Sequence[str], colour: str) -> None:
    (axes,) = figure.axes
    for left, cell in zip(_LEFT, cells, strict=True):
        verdicts = {Verdict.EXACT.value: _RIGHT, Verdict.CONTRADICTS_ITSELF.value: _WRONG}
        axes.text(left, place, cell, va="center", fontsize=11, color=verdicts.get(cell, colour))


def _cells(row: Row) -> tuple[str, ...]:
    verdict = "" if row.claim is None else row.claim.verdict.value
    return row.parameter, row.table, row.text, row.implied, verdict
