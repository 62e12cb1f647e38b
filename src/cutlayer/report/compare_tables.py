"""Tables for the terminal: compared runs in short, and what each took to reach the target.

Knows comparisons, not files.
"""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cutlayer.report.compare_columns import Column, result_columns, target_columns
from cutlayer.report.comparison import Comparison, comparison_title, target_text
from cutlayer.report.vocabulary import printable, shortened

# eighty columns hold the results of runs with names of at most so many
_LABEL_LENGTH = 18
_SHOWN = ("best", "a round", "up", "down", "memory")


def compare_table(comparison: Comparison) -> RenderableType:
    """The runs' results, what the target took, and which runs did not fit."""
    results = result_columns(comparison)
    shown = [results[0], *(one for one in results if one.label in _SHOWN)]
    refused = [
        Text(printable(f"{one.label} {one.reason}"), style="red") for one in comparison.refused
    ]
    return Group(
        Text(printable(comparison_title(comparison)), style="bold"),
        Padding(_table(comparison, shown), (0, 0, 1, 0), expand=False),
        Text(f"until {target_text(comparison)}", style="bold"),
        _table(comparison, target_columns(comparison)),
        *refused,
    )


def _table(comparison: Comparison, columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("run", no_wrap=True)
    for column in columns:
        table.add_column(column.label, justify="right", no_wrap=True)
    labels = [shortened(entry.label, _LABEL_LENGTH) for entry in comparison.entries]
    for label, *texts in zip(labels, *(column.texts for column in columns), strict=True):
        table.add_row(Text(label), *texts)
    return table
