"""Texts in memory with their labels: what tables, `datasets` and plain text become.

A row that cannot be used stays in its place with the reason, so that it is counted and named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import final

import numpy as np
from jaxtyping import Int64

from cutlayer.data.labels import kind, read_label, text_fault
from cutlayer.data.samples import Samples
from cutlayer.data.splits import UNKNOWN_LABEL, Settings, index_labels, name_classes
from cutlayer.errors import DataError
from cutlayer.words import quoted

UNLABELLED = "text"  # the one category of documents that have none
_NO_CATEGORY = "(none)"  # of a document without a label among others that have one
# the two halves of an example for a language model: one alone is not what it should learn
_QUESTIONS = ("instruction", "prompt", "question", "query", "messages", "conversations")
_ANSWERS = ("output", "completion", "response", "answer", "chosen")


@final
@dataclass(frozen=True, eq=False)
class TextRows(Samples):
    """Texts in memory. `raw_labels` as the file has them; `faults`: why a row has no text or no
    label, by its index; `files`: the name of each row's own file, if it has one."""

    texts: tuple[str | None, ...]
    labels: Int64[np.ndarray, " sample"]
    raw_labels: tuple[str | None, ...]
    lines: Int64[np.ndarray, " sample"]
    origin: str
    line_title: str = "line"
    files: tuple[str, ...] = ()
    faults: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))

    def read(self, index: int) -> str:
        text = self.texts[index]
        if index in self.faults or text is None:
            why = self.faults.get(index, "the row is broken or has no text")
            raise DataError(f"{self.where(index)}: {why}")
        return text

    def where(self, index: int) -> str:
        if self.files:
            return f"{self.origin}/{self.files[index]}"
        place = f"{self.origin} {self.line_title} {self.lines[index]}"
        raw = self.raw_labels[index]
        if self.labels[index] == UNKNOWN_LABEL and raw is not None:
            return f"{place} (label {quoted(raw)})"
        return place


@dataclass(frozen=True)
class Row:
    """One row: its text and the name of its class, or why it cannot be used."""

    line: int
    text: str | None
    label: str | None
    fault: str | None = None


def text_row(line: int, text: object, label: object, settings: Settings) -> Row:
    """A row of raw values. For a language model a label is a mere category and never a fault."""
    fault = text_fault(text, settings.text_field)
    name, unlabelled = _label(label)
    if settings.task != "causal-lm":
        fault = fault or unlabelled
    return Row(line, text if isinstance(text, str) and fault is None else None, name, fault)


def text_classes(train: Sequence[Row], test: Sequence[Row], settings: Settings) -> tuple[str, ...]:
    """The classes of the training rows; for a language model the categories of all rows."""
    names = name_classes([row.label for row in train])
    if settings.task != "causal-lm":
        return names
    others = name_classes([row.label for row in test if row.label not in names])
    unlabelled = any(row.label is None for row in (*train, *test))
    return (*names, *others, *((_NO_CATEGORY,) if unlabelled else ()))


def text_rows(
    rows: Sequence[Row],
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
    )


def refuse_halves(columns: Sequence[str], origin: str, settings: Settings) -> None:
    """Raises `DataError` where a language model would learn answers without their questions, or
    questions without their answers."""
    if settings.task != "causal-lm":
        return
    for half, others in ((_ANSWERS, _QUESTIONS), (_QUESTIONS, _ANSWERS)):
        beside = [name for name in columns if name.lower() in others]
        if settings.text_field.lower() in half and beside:
            raise DataError(
                f"{origin}: the column {settings.text_field!r} is one half of an example, the "
                f"other is in {', '.join(beside)}. Write both into one text, as the model expects "
                "them, and name that column with text_field"
            )


def refuse_no_text(values: Sequence[object], text_field: str, origin: str) -> None:
    """Raises `DataError` where a column holds other things than texts, in every row."""
    kinds = {kind(value) for value in values if value is not None}
    if kinds and kind("") not in kinds:
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
