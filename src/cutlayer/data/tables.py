"""Text in tables: CSV with a header line, and JSON lines; both as `train` + `test` or one file."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Int64

from cutlayer.data.samples import Samples, SplitPair
from cutlayer.data.splits import (
    TEST_NAMES,
    UNKNOWN_LABEL,
    Settings,
    index_labels,
    name_classes,
    split_off_test,
)
from cutlayer.errors import DataError

SUFFIXES = (".csv", ".jsonl")
_UNLABELLED = "text"  # the one category of documents that have none


@final
@dataclass(frozen=True, eq=False)
class TextRows(Samples):
    """Texts in memory. A text is None where its row had none; `raw_labels` as the file has them."""

    texts: tuple[str | None, ...]
    labels: Int64[np.ndarray, " sample"]
    raw_labels: tuple[str | None, ...]
    lines: Int64[np.ndarray, " sample"]
    origin: str
    line_title: str = "line"

    def read(self, index: int) -> str:
        text = self.texts[index]
        if text is None:
            raise DataError(f"{self.where(index)}: the row is broken or has no text")
        return text

    def where(self, index: int) -> str:
        place = f"{self.origin} {self.line_title} {self.lines[index]}"
        if self.labels[index] == UNKNOWN_LABEL:
            return f"{place} (label {self.raw_labels[index]!r})"
        return place


@dataclass(frozen=True)
class _Row:
    line: int
    text: str | None
    label: str | None


def find_split_files(folder: Path) -> tuple[Path, Path | None] | None:
    """`train` and test tables of a folder, the test one None if it has none; None if no `train`."""
    for suffix in SUFFIXES:
        train = folder / f"train{suffix}"
        if train.is_file():
            tests = (folder / f"{name}{suffix}" for name in TEST_NAMES)
            return train, next((path for path in tests if path.is_file()), None)
    return None


def read_tables(train: Path, test: Path | None, settings: Settings) -> SplitPair:
    """Both splits; the classes are those of the training labels.

    Raises `DataError` when a file cannot be read, is empty or lacks the columns.
    """
    train_rows = _read_rows(train, settings)
    names = name_classes([row.label for row in train_rows])
    samples = _samples(train_rows, names, train)
    if test is None:
        return split_off_test(samples, names, settings.test_fraction, settings.seed)
    return SplitPair(samples, _samples(_read_rows(test, settings), names, test), names)


def write_json_lines(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write `(text, label)` rows as a JSON lines table."""
    with path.open("w", encoding="utf-8") as file:
        for text, label in rows:
            file.write(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n")


def _samples(rows: list[_Row], names: tuple[str, ...], path: Path) -> TextRows:
    raw = tuple(row.label for row in rows)
    return TextRows(
        texts=tuple(row.text for row in rows),
        labels=index_labels(raw, names),
        raw_labels=raw,
        lines=np.array([row.line for row in rows], np.int64),
        origin=str(path),
    )


def _read_rows(path: Path, settings: Settings) -> list[_Row]:
    read = _csv_records if path.suffix == ".csv" else _json_records
    try:
        records = list(read(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as UTF-8 {path.suffix[1:]}: {error}") from error
    whole = [record for _, record in records if record is not None]
    if not whole:
        raise DataError(f"{path} holds no rows")
    label_field = _label_field(path, whole[0], settings)
    return [_row(line, record, settings.text_field, label_field) for line, record in records]


def _row(
    line: int, record: Mapping[str, Any] | None, text_field: str, label_field: str | None
) -> _Row:
    if record is None:
        return _Row(line, None, None)
    text = record.get(text_field)
    label = _UNLABELLED if label_field is None else record.get(label_field)
    return _Row(
        line,
        text if isinstance(text, str) else None,
        None if label is None or label == "" else str(label),
    )


def _label_field(path: Path, record: Mapping[str, Any], settings: Settings) -> str | None:
    """The label's column, None if there is none and none is needed."""
    columns = ", ".join(str(column) for column in record)
    if settings.text_field not in record:
        raise DataError(
            f"{path} has no column {settings.text_field!r} for the text; it has: {columns}. "
            "Name yours with text_field"
        )
    if settings.label_field in record:
        return settings.label_field
    if settings.task == "causal-lm":
        return None
    raise DataError(
        f"{path} has no column {settings.label_field!r} for the label; it has: {columns}. Name "
        "yours with label_field, or ask for the task causal-lm, which needs none"
    )


def _csv_records(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for record in reader:
            yield reader.line_num, record


def _json_records(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    with path.open(encoding="utf-8-sig") as file:
        for line, content in enumerate(file, start=1):
            if content.strip():
                yield line, _json_object(content)


def _json_object(content: str) -> Mapping[str, Any] | None:
    try:
        record = json.loads(content)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
