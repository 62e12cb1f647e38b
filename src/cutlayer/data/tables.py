"""Text in tables: CSV with a header line, JSON lines and JSON arrays.

Each may be `train` and `test` in a folder, or one file.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from cutlayer.data.csv_records import read_csv
from cutlayer.data.json_records import read_json
from cutlayer.data.labels import listing, refuse_mixed_kinds
from cutlayer.data.left_out import beside, listed
from cutlayer.data.records import Table
from cutlayer.data.samples import SplitPair
from cutlayer.data.splits import TEST_NAMES, Settings, split_off_test
from cutlayer.data.text_rows import (
    UNLABELLED,
    Row,
    refuse_halves,
    refuse_no_text,
    text_classes,
    text_row,
    text_rows,
)
from cutlayer.errors import DataError

SUFFIXES = (".csv", ".jsonl", ".json")
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_CHATS = ("messages", "conversations", "prompt", "instruction")


def is_table(path: Path) -> bool:
    """Whether a file's suffix is that of a table."""
    return path.suffix.lower() in SUFFIXES


def find_split_files(folder: Path) -> tuple[Path, Path | None] | None:
    """`train` and test tables of a folder, the test one None if it has none; None if no `train`.

    Of several a CSV comes first, and a test table of the training one's kind.
    """
    tables = [path for path in listed(folder) if path.is_file() and is_table(path)]
    train = _best(tables, "train", SUFFIXES)
    if train is None:
        return None
    suffixes = (train.suffix.lower(), *SUFFIXES)
    tests = (_best(tables, name, suffixes) for name in TEST_NAMES)
    return train, next((path for path in tests if path is not None), None)


def _best(tables: Sequence[Path], stem: str, suffixes: Sequence[str]) -> Path | None:
    named = [path for path in tables if path.stem == stem]
    return min(named, key=lambda path: suffixes.index(path.suffix.lower()), default=None)


def read_tables(train: Path, test: Path | None, settings: Settings) -> SplitPair:
    """Both splits; the classes are those of the training labels.

    Raises `DataError` when a file cannot be read, is empty or lacks the columns.
    """
    train_rows, title = _read_rows(train, settings)
    test_rows, test_title = ([], "") if test is None else _read_rows(test, settings)
    names = text_classes(train_rows, test_rows, settings)
    samples = text_rows(train_rows, names, str(train), title)
    if test is None:
        return split_off_test(samples, names, settings.test_fraction, settings.seed)
    return SplitPair(samples, text_rows(test_rows, names, str(test), test_title), names)


def read_table_folder(folder: Path, settings: Settings) -> SplitPair:
    """`read_tables` of a folder's split files, with what else lies there as left out."""
    found = find_split_files(folder)
    if found is None:
        raise DataError(f"{folder} has no train.csv, train.jsonl or train.json")
    pair = read_tables(*found, settings)
    return pair.leaving_out(beside(folder, [path for path in found if path is not None]))


def write_json_lines(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write `(text, label)` rows as a JSON lines table."""
    with path.open("w", encoding="utf-8") as file:
        for text, label in rows:
            file.write(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n")


def _read_rows(path: Path, settings: Settings) -> tuple[list[Row], str]:
    """The rows of a table, and what their places are called."""
    table = read_csv(path, settings.label_field) if _is_csv(path) else read_json(path)
    if not table.records:
        raise DataError(f"{path} holds no rows")
    if not table.columns:
        first = table.records[0]
        raise DataError(
            f"{path} has no row that can be read; {table.line_title} {first.line}: {first.fault}"
        )
    label_field = _label_field(path, table, settings)
    refuse_halves(table.columns, str(path), settings)
    _refuse_other_kinds(path, table, settings, label_field)
    rows = []
    for record in table.records:
        text = record.fields.get(settings.text_field)
        label = UNLABELLED if label_field is None else record.fields.get(label_field)
        row = text_row(record.line, text, label, settings)
        broken = Row(record.line, None, None, record.fault)
        rows.append(row if record.fault is None else broken)
    return rows, table.line_title


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _label_field(path: Path, table: Table, settings: Settings) -> str | None:
    """The label's column, None if there is none and none is needed."""
    columns = listing(table.columns)
    if settings.text_field not in table.columns:
        raise DataError(
            f"{path} has no column {settings.text_field!r} for the text; it has: {columns}. "
            f"{_advice(table)}"
        )
    if settings.label_field in table.columns:
        return settings.label_field
    if settings.task == "causal-lm":
        return None
    raise DataError(
        f"{path} has no column {settings.label_field!r} for the label; it has: {columns}. Name "
        "yours with label_field, or ask for the task causal-lm, which needs none"
    )


def _advice(table: Table) -> str:
    if len(table.columns) == 1:
        for separator, title in _SEPARATORS.items():
            if separator in table.columns[0]:
                return f"{title.capitalize()} separate its columns: save it with commas"
    chats = [name for name in table.columns if name.lower() in _CHATS]
    if chats:
        return (
            f"Name yours with text_field; {', '.join(chats)} of a conversation must first be "
            "written into one text, as the model expects it"
        )
    return "Name yours with text_field"


def _refuse_other_kinds(
    path: Path, table: Table, settings: Settings, label_field: str | None
) -> None:
    """Raises `DataError` for a text column without any text, and for labels of mixed kinds."""
    whole = [record for record in table.records if record.fault is None]
    found = [record.fields.get(settings.text_field) for record in whole]
    refuse_no_text(found, settings.text_field, str(path))
    if label_field is not None and settings.task != "causal-lm":
        title = table.line_title
        refuse_mixed_kinds(
            ((f"{title} {record.line}", record.fields.get(label_field)) for record in whole),
            f"{path} column {label_field!r}",
        )
