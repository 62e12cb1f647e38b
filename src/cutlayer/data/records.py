"""A table as its records, each with the line it begins in and, if it is broken, why.

Knows what CSV and JSON lines give alike; not which column is the text and which the label.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """One record: its fields by column, or why it has none that can be used."""

    line: int
    fields: Mapping[str, Any]
    fault: str | None = None


@dataclass(frozen=True)
class Table:
    """Records in the file's order, and the columns that any of them has."""

    columns: tuple[str, ...]
    records: tuple[Record, ...]
    line_title: str = "line"
