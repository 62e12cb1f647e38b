"""Texts and conversations from tables (CSV, JSON lines, JSON arrays) and from plain `.txt` files.

Each may be `train` and `test` in a folder, or one file. A row that cannot be used stays in its
place with the reason, so that it is counted and named. Knows which column is the text and which the
label; how lines become records is in `records.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from cutlayer.data.chats import example, format_advice, recognise
from cutlayer.data.left_out import is_hidden, left_beside, list_folder, merge_left_out
from cutlayer.data.records import Table, read_csv, read_json, read_text, undecoded
from cutlayer.data.samples import (
    TEST_NAMES,
    ReadSettings,
    SplitPair,
    TableReading,
    TextContent,
    TextRows,
    index_labels,
    name_classes,
    read_label,
    refuse_mixed_kinds,
    split_off_test,
    text_fault,
)
from cutlayer.errors import DataError, column_listing, quoted, type_in_words
from cutlayer.spec import LeftOut

UNLABELLED = "text"  # the one category of documents that have none
_NO_CATEGORY = "(none)"  # of a document without a label among others that have one
_TABLE_SUFFIXES = (".csv", ".jsonl", ".json")
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_UNLABELLED_ONLY = (UNLABELLED,)
_TEXT_SUFFIX = ".txt"


@dataclass(frozen=True)
class TextRow:
    """One row: its text or conversation and the name of its class, or why it cannot be used; and
    whose it is, where that is asked (empty: it does not say)."""

    line: int
    text: TextContent | None
    label: str | None
    fault: str | None = None
    group: str | None = None


def text_row(
    line: int, text: object, label: object, settings: ReadSettings, group: object = None
) -> TextRow:
    """A row of raw values. For a language model a label is a mere category and never a fault."""
    fault = text_fault(text, settings.text_field)
    name, unlabelled = _label(label)
    if settings.task != "causal-lm":
        fault = fault or unlabelled
    content = text if isinstance(text, str) and fault is None else None
    return _grouped(TextRow(line, content, name, fault), group, settings)


def example_row(
    line: int,
    reading: TableReading,
    row: Mapping[str, Any],
    label: object,
    settings: ReadSettings,
) -> TextRow:
    """A row of raw values by column, of conversations or instructions."""
    category, _ = _label(label)
    try:
        made = TextRow(line, example(reading, row), category)
    except DataError as error:
        made = TextRow(line, None, category, str(error))
    return _grouped(made, row.get(settings.group_field or ""), settings)


def _grouped(row: TextRow, group: object, settings: ReadSettings) -> TextRow:
    """The same row of this group, if groups are asked for; without one it cannot be dealt."""
    if settings.group_field is None:
        return row
    try:
        name = read_label(group)
    except DataError:
        name = None
    lacking = None if name else f"it has no value in the column {settings.group_field!r}"
    return replace(row, group=name or "", fault=row.fault or lacking)


def refuse_no_column(columns: Sequence[str], settings: ReadSettings, origin: str) -> None:
    """Raises `DataError` where the column is missing that samples are to be dealt by."""
    if settings.group_field is not None and settings.group_field not in columns:
        raise DataError(
            f"{origin} has no column {settings.group_field!r} to deal samples by; it has:"
            f" {column_listing(columns)}. Name one of them with partition.column"
        )


def group_numbers(rows: Sequence[TextRow]) -> Int64[np.ndarray, " sample"] | None:
    """Whose each row is, by number; None where nobody asked."""
    if all(row.group is None for row in rows):
        return None
    groups = [row.group for row in rows]
    return index_labels(groups, name_classes(groups))


def text_classes(
    train: Sequence[TextRow], test: Sequence[TextRow], settings: ReadSettings
) -> tuple[str, ...]:
    """The classes of the training rows; for a language model the categories of all rows."""
    names = name_classes([row.label for row in train])
    if settings.task != "causal-lm":
        return names
    others = name_classes([row.label for row in test if row.label not in names])
    unlabelled = any(row.label is None for row in (*train, *test))
    return (*names, *others, *((_NO_CATEGORY,) if unlabelled else ()))


def text_rows(
    rows: Sequence[TextRow],
    names: tuple[str, ...],
    origin: str,
    line_title: str,
    files: tuple[str, ...] = (),
) -> TextRows:
    """Rows as samples of these classes; with `files`, each of its own file in the folder
    `origin`."""
    missing = _NO_CATEGORY if _NO_CATEGORY in names else None
    raw = tuple(missing if row.label is None else row.label for row in rows)
    return TextRows(
        texts=tuple(row.text for row in rows),
        labels=index_labels(raw, names),
        raw_labels=raw,
        lines=np.array([row.line for row in rows], np.int64),
        origin=origin,
        line_title=line_title,
        files=files,
        faults={index: row.fault for index, row in enumerate(rows) if row.fault is not None},
        groups=group_numbers(rows),
    )


def refuse_no_text(values: Sequence[object], text_field: str, origin: str) -> None:
    """Raises `DataError` where a column holds other things than texts, in every row."""
    kinds = {type_in_words(value) for value in values if value is not None}
    if kinds and type_in_words("") not in kinds:
        raise DataError(
            f"{origin}: the column {text_field!r} holds no text, but {' or '.join(sorted(kinds))} "
            "in every row. Name the text's column with text_field"
        )


def _label(value: object) -> tuple[str | None, str | None]:
    """The class of a raw label, and why there is none."""
    try:
        name = read_label(value)
    except DataError as error:
        return None, str(error)
    if name is None:
        told = "" if value is None or value == "" else f" ({quoted(value)} stands for none)"
        return None, f"it has no label{told}"
    return name, None


def is_table(path: Path) -> bool:
    """Whether a file's suffix is that of a table."""
    return path.suffix.lower() in _TABLE_SUFFIXES


def find_split_files(folder: Path) -> tuple[Path, Path | None] | None:
    """`train` and test tables of a folder, the test one None if it has none; None if no `train`.

    Of several a CSV comes first, and a test table of the training one's kind.
    """
    tables = [path for path in list_folder(folder) if path.is_file() and is_table(path)]
    train = _best(tables, "train", _TABLE_SUFFIXES)
    if train is None:
        return None
    suffixes = (train.suffix.lower(), *_TABLE_SUFFIXES)
    tests = (_best(tables, name, suffixes) for name in TEST_NAMES)
    return train, next((path for path in tests if path is not None), None)


def _best(tables: Sequence[Path], stem: str, suffixes: Sequence[str]) -> Path | None:
    named = [path for path in tables if path.stem == stem]
    return min(named, key=lambda path: suffixes.index(path.suffix.lower()), default=None)


def read_tables(train: Path, test: Path | None, settings: ReadSettings) -> SplitPair:
    """Both splits; the classes are those of the training labels.

    Raises `DataError` when a file cannot be read, is empty or lacks the columns.
    """
    table = _read_table(train, settings)
    reading = recognise(
        table.columns,
        (record.fields for record in table.records if record.fault is None),
        str(train),
        settings,
    )
    if reading is not None:
        settings = replace(settings, task="causal-lm")
    rows = _rows(train, table, reading, settings)
    if test is None:
        names = text_classes(rows, [], settings)
        samples = text_rows(rows, names, str(train), table.line_title)
        pair = split_off_test(samples, names, settings.test_fraction, settings.seed)
        return replace(pair, reading=reading)
    tested = _read_table(test, settings)
    # nobody deals them
    test_rows = _rows(test, tested, reading, replace(settings, group_field=None))
    names = text_classes(rows, test_rows, settings)
    return SplitPair(
        text_rows(rows, names, str(train), table.line_title),
        text_rows(test_rows, names, str(test), tested.line_title),
        names,
        reading=reading,
    )


def read_table_folder(folder: Path, settings: ReadSettings) -> SplitPair:
    """`read_tables` of a folder's split files, with what else lies there as left out."""
    found = find_split_files(folder)
    if found is None:
        raise DataError(f"{folder} has no train.csv, train.jsonl or train.json")
    pair = read_tables(*found, settings)
    return pair.leaving_out(left_beside(folder, [path for path in found if path is not None]))


def _read_table(path: Path, settings: ReadSettings) -> Table:
    is_csv = path.suffix.lower() == ".csv"
    table = read_csv(path, settings.label_field) if is_csv else read_json(path)
    if not table.records:
        raise DataError(f"{path} holds no rows")
    if not table.columns:
        first = table.records[0]
        raise DataError(
            f"{path} has no row that can be read; {table.line_title} {first.line}: {first.fault}"
        )
    return table


def _rows(
    path: Path, table: Table, reading: TableReading | None, settings: ReadSettings
) -> list[TextRow]:
    refuse_no_column(table.columns, settings, str(path))
    if reading is None:
        label_field = _label_field(path, table, settings)
        _refuse_other_kinds(path, table, settings, label_field)
    else:
        label_field = settings.label_field if settings.label_field in table.columns else None
    rows = []
    for record in table.records:
        fields, group = record.fields, record.fields.get(settings.group_field or "")
        label = UNLABELLED if label_field is None else fields.get(label_field)
        if record.fault is not None:
            row = TextRow(record.line, None, None, record.fault)
        elif reading is None:
            row = text_row(record.line, fields.get(settings.text_field), label, settings, group)
        else:
            row = example_row(record.line, reading, fields, label, settings)
        rows.append(row)
    return rows


def _label_field(path: Path, table: Table, settings: ReadSettings) -> str | None:
    """The label's column, None if there is none and none is needed."""
    columns = column_listing(table.columns)
    if settings.text_field not in table.columns:
        raise DataError(
            f"{path} has no column {settings.text_field!r} for the text; it has: {columns}. "
            f"{_advice(table, settings)}"
        )
    if settings.label_field in table.columns:
        return settings.label_field
    if settings.task == "causal-lm":
        return None
    raise DataError(
        f"{path} has no column {settings.label_field!r} for the label; it has: {columns}. Name "
        "yours with label_field, or ask for the task causal-lm, which needs none"
    )


def _advice(table: Table, settings: ReadSettings) -> str:
    if len(table.columns) == 1:
        for separator, title in _SEPARATORS.items():
            if separator in table.columns[0]:
                return f"{title.capitalize()} separate its columns: save it with commas"
    return format_advice(table.columns, settings)


def _refuse_other_kinds(
    path: Path, table: Table, settings: ReadSettings, label_field: str | None
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


def is_text_file(path: Path) -> bool:
    """Whether a path is a `.txt` file."""
    return path.is_file() and path.suffix.lower() == _TEXT_SUFFIX


def has_text_files(folder: Path) -> bool:
    """Whether the folder, or its `train` folder, holds `.txt` files."""
    return bool(_text_files(folder) or _text_files(folder / "train"))


def read_plain_text(path: Path, settings: ReadSettings) -> SplitPair:
    """Both splits of a `.txt` file or a folder of them, for language modelling.

    In a folder each file is a document; a single file, or `train.txt` beside `test.txt`, is cut
    into documents at blank lines.

    A document that is not UTF-8 is a bad sample. Raises `DataError` for a file that is no text.
    """
    if path.is_file():
        return _halved(_paragraphs(path), settings, ())
    train = _split(path, "train")
    if train is None:
        if (path / "train").is_dir():
            raise DataError(f"{path} has a train folder without .txt files")
        files = _text_files(path)
        return _halved(_documents(path, files), settings, left_beside(path, files))
    for name in TEST_NAMES:
        test = _split(path, name)
        if test is not None:
            used = (train.place, test.place)
            rest = merge_left_out((*train.left_out, *test.left_out, *left_beside(path, used)))
            return SplitPair(train.samples, test.samples, _UNLABELLED_ONLY, rest)
    rest = merge_left_out((*train.left_out, *left_beside(path, [train.place])))
    return _halved(train.samples, settings, rest)


@dataclass(frozen=True)
class _Split:
    """A split of a folder: its documents, the file or folder they are in, what else is there."""

    samples: TextRows
    place: Path
    left_out: tuple[LeftOut, ...]


def _halved(samples: TextRows, settings: ReadSettings, rest: tuple[LeftOut, ...]) -> SplitPair:
    pair = split_off_test(samples, _UNLABELLED_ONLY, settings.test_fraction, settings.seed)
    return pair.leaving_out(rest)


def _split(folder: Path, name: str) -> _Split | None:
    alone, many = folder / f"{name}{_TEXT_SUFFIX}", folder / name
    if alone.is_file():
        return _Split(_paragraphs(alone), alone, ())
    files = _text_files(many)
    return _Split(_documents(many, files), many, left_beside(many, files)) if files else None


def _text_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in list_folder(folder) if is_text_file(path) and not is_hidden(path)]


def _paragraphs(path: Path) -> TextRows:
    found: list[tuple[int, str]] = []
    open_lines: list[str] = []
    lines = [*read_text(path).splitlines(), ""]
    for number, line in enumerate(lines, start=1):
        if line.strip():
            open_lines.append(line)
        elif open_lines:
            found.append((number - len(open_lines), "\n".join(open_lines)))
            open_lines = []
    if not found:
        raise DataError(f"{path} holds no text")
    rows = [_row(line, text) for line, text in found]
    return text_rows(rows, _UNLABELLED_ONLY, str(path), "line")


def _documents(folder: Path, files: Sequence[Path]) -> TextRows:
    rows = [_document(path) for path in files]
    return text_rows(
        rows, _UNLABELLED_ONLY, str(folder), "file", tuple(path.name for path in files)
    )


def _document(path: Path) -> TextRow:
    try:
        # line ends as Python's text files give them
        return _row(1, read_text(path).replace("\r\n", "\n").replace("\r", "\n"))
    except DataError as error:
        return TextRow(1, None, UNLABELLED, str(error))


def _row(line: int, text: str) -> TextRow:
    fault = undecoded(text) or text_fault(text, "text")
    return TextRow(line, text if fault is None else None, UNLABELLED, fault)
