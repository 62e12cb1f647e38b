"""A sweep's results as files for other tools and for papers: tidy tables in CSV and Parquet,
booktabs tables in LaTeX, vector figures in PDF.

Knows sweeps and formats, not where runs come from.
"""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from cutlayer.errors import needing
from cutlayer.files import write_atomically, write_text
from cutlayer.report.comparison import target_text
from cutlayer.report.sweep import (
    Row,
    Sweep,
    TextTable,
    cell_table,
    difference_table,
    round_rows,
    run_rows,
    setting_keys,
    sweep_title,
)

# Tidy tables: a row a run, and a row a run and round.


def write_csv(sweep: Sweep, folder: Path) -> list[Path]:
    """`runs.csv` and `rounds.csv`; what is not there is empty. Raises StorageError."""
    paths = []
    for name, rows in _tables(sweep).items():
        write_text(folder / f"{name}.csv", rows_csv(rows))
        paths.append(folder / f"{name}.csv")
    return paths


def write_parquet(sweep: Sweep, folder: Path) -> list[Path]:
    """`runs.parquet` and `rounds.parquet`: the same, typed. Raises ConfigError without pyarrow,
    StorageError."""
    with needing("Parquet", "pandas"):
        from pyarrow import Table
        from pyarrow.parquet import write_table

    paths = []
    for name, rows in _tables(sweep).items():
        table = Table.from_pylist([dict(row) for row in rows])
        paths.append(folder / f"{name}.parquet")
        write_atomically(paths[-1], partial(write_table, table))
    return paths


def _tables(sweep: Sweep) -> dict[str, list[Row]]:
    return {"runs": run_rows(sweep), "rounds": round_rows(sweep)}


def rows_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of the same keys as a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


# LaTeX.


def write_latex(sweep: Sweep, folder: Path) -> list[Path]:
    """`results.tex`, a row for each setting: means over seeds with their intervals; and
    `differences.tex`, scores less the baseline's with the test of it, where there are any.

    Each is a `tabular` to put into a table by `\\input`. Raises StorageError.
    """
    quantity = sweep.quantity(f"{sweep.measure}_final")
    differences = difference_table(sweep, quantity)
    notes = {
        "results": (
            "mean over seeds, and half of its 95 % confidence interval (Student's t)",
            f"to target: until {target_text(sweep.comparison)}",
        ),
        "differences": (
            f"less {sweep.baseline.label}, seed by seed: mean, and half of its 95 % interval",
            "p: paired t-test, two-sided; Holm: held against all settings",
        ),
    }
    tables = {"results": cell_table(sweep)}
    if differences.rows:
        tables["differences"] = differences
    paths = []
    for name, table in tables.items():
        told = (sweep_title(sweep), *notes[name], r"needs \usepackage{booktabs}")
        comment = "".join(f"% {' '.join(line.split())}\n" for line in told)
        paths.append(folder / f"{name}.tex")
        write_text(paths[-1], comment + latex_table(_by_setting(sweep, table)))
    return paths


def latex_table(table: TextTable) -> str:
    """A `tabular` with the rules of booktabs: columns of settings to the left, all from `seeds` on
    to the right."""
    count, words = len(table.headings), table.headings.index("seeds")
    headings = (_heading(text, left=n < words) for n, text in enumerate(table.headings))
    lines = [
        r"\begin{tabular}{" + "l" * words + "r" * (count - words) + "}",
        r"\toprule",
        " & ".join(headings) + r" \\",
        r"\midrule",
        *(" & ".join(map(latex_text, row)) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def latex_text(text: str) -> str:
    """A text as LaTeX sets it: numbers in mathematics, what LaTeX reads as a command escaped."""
    if text == "-":
        return "--"
    if _NUMBER.fullmatch(text):
        return "$" + text.replace(" ± ", r" \pm ") + "$"
    escaped = "".join(_ESCAPED.get(letter, letter) for letter in " ".join(text.split()))
    # after the end of a row these would be an option of it
    return f"{{}}{escaped}" if escaped[:1] in ("[", "*") else escaped


_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?( ± \d+(\.\d+)?)?")
_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def _heading(text: str, *, left: bool) -> str:
    """The first word, the others, the unit: each in a line of its own."""
    name, bracket, unit = text.partition(" [")
    first, _, others = name.partition(" ")
    parts = [part for part in (first.rstrip(","), others, bracket[1:] + unit) if part]
    if len(parts) == 1:
        return latex_text(text)
    inner = r" \\ ".join(map(latex_text, parts))
    return rf"\begin{{tabular}}[b]{{@{{}}{'l' if left else 'r'}@{{}}}}{inner}\end{{tabular}}"


def _by_setting(sweep: Sweep, table: TextTable) -> TextTable:
    """A column for each setting in place of the label of all, where that is what cells have."""
    keys = setting_keys(sweep)
    if not all(cell.settings for cell in sweep.cells):
        return table
    settings = {cell.label: cell.settings for cell in sweep.cells}
    rows = [
        (*(settings[label].get(key, "-") for key in keys), *values) for label, *values in table.rows
    ]
    names = (key.removesuffix(".name").replace(".", " ") for key in keys)
    return TextTable((*names, *table.headings[1:]), tuple(rows))


# PDF.


def write_pdf(sweep: Sweep, folder: Path) -> list[Path]:
    """`curves.pdf`, scores by round, by time and by bytes with bands over seeds; and `fronts.pdf`,
    scores against what they cost, where there are several settings. As wide as a page of two
    columns, letters of 8 points, fonts embedded as TrueType; the same sweep gives the same bytes.

    Raises ConfigError without matplotlib, StorageError.
    """
    with needing("PDF", "train"):
        from cutlayer.report.drawing import paper_style, save_pdf
        from cutlayer.report.sweep_page import curves_figure, fronts_figure

    with paper_style():
        paths = [save_pdf(folder / "curves.pdf", curves_figure(sweep), sweep_title(sweep))]
        if len([cell for cell in sweep.cells if cell.runs]) > 1:
            figure = fronts_figure(sweep, legend=True)
            paths.append(save_pdf(folder / "fronts.pdf", figure, sweep_title(sweep)))
    return paths


FORMATS: Mapping[str, Callable[[Sweep, Path], list[Path]]] = {
    "csv": write_csv,
    "parquet": write_parquet,
    "latex": write_latex,
    "pdf": write_pdf,
}
