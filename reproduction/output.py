"""What a figure leaves on the disk: its tables, its claims, its picture; and all verdicts in one.

Knows matplotlib and claims, and no figure.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from cutlayer.report.drawing import MUTED, plain_style, save_figure, save_table
from reproduction.catalogue import Made
from reproduction.claims import CLAIM_COLUMNS, Claim, claim_rows

# a cell by its heading; one that a row lacks is empty
Cells = Mapping[str, object]


def write(
    name: str,
    output: Path,
    setting: str,
    claims: tuple[Claim, ...],
    tables: Mapping[str, Iterable[Cells]],
    draw: Callable[[], Figure],
) -> Made:
    """Write each of `tables` as CSV, `name`-claims.csv, and the picture as .png and .svg.

    `draw` is called in the plain style. Raises RunError for an output that cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    files = [_save(output / f"{each}.csv", list(rows)) for each, rows in tables.items()]
    files.append(save_table(output / f"{name}-claims.csv", CLAIM_COLUMNS, claim_rows(claims)))
    with plain_style():
        files += save_figure(output / name, draw())
    return Made(setting, claims, tuple(files))


def _save(path: Path, rows: Sequence[Cells]) -> Path:
    columns = list(dict.fromkeys(heading for row in rows for heading in row))
    return save_table(path, columns, ([row.get(each, "") for each in columns] for row in rows))


def caption(figure: Figure, setting: str) -> None:
    """A line above all panels: what was computed or trained."""
    figure.suptitle(setting, x=0.005, ha="left", fontsize=10.5, color=MUTED)


def save_verdicts(path: Path, claims: Mapping[str, Sequence[Claim]]) -> Path:
    """A CSV file of all claims by figure. Raises RunError: cannot be written."""
    rows = [(name, *row) for name, some in claims.items() for row in claim_rows(some)]
    return save_table(path, ("figure", *CLAIM_COLUMNS), rows)
