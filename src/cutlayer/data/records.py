"""Tables and texts in files, line by line: CSV, JSON lines, UTF-8.

A table becomes its records, each with the line it begins in and, if it is broken, why. A byte that
is not UTF-8 becomes a lone surrogate (Python's `surrogateescape`), so that one bad line costs one
sample and not the file; `undecoded` finds it again. Knows not which column is the text and which
the label.
"""

import codecs
import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cutlayer.errors import DataError, column_listing, quoted, reason, type_in_words

# UTF-32's mark begins with UTF-16's: the longer ones first
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_ESCAPED = re.compile("[\udc80-\udcff]")
_LINE = re.compile("[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_PROBE_BYTES = 4096
_MOST_ZEROS = 0.1  # of the first bytes, in a file that is text
_LINE_END = re.compile("\r\n|\r|\n")
_FEWEST_ROWS = 3  # lines of one text that all have a row's form: no prose looks like that
_ARRAY_TITLE = "record"  # places in an array are counted, since its lines say little


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


def read_text(path: Path) -> str:
    """All of a file, line ends as they are, without the mark of UTF-8.

    Raises `DataError` when it cannot be opened, is UTF-16 or UTF-32, or is no text.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error
    for mark, name in _OTHER_MARKS.items():
        if raw.startswith(mark):
            raise DataError(f"{path} cannot be read as UTF-8: it is {name}. Save it as UTF-8")
    probe = raw[:_PROBE_BYTES]
    if probe.count(0) > _MOST_ZEROS * len(probe):
        raise DataError(
            f"{path} cannot be read as UTF-8: it is full of zero bytes, so it is UTF-16 or no text"
        )
    return raw.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="surrogateescape")


def lines_of(text: str) -> Iterator[str]:
    """The lines of a text with their ends, as Python's text files cut it: at LF, CR LF and CR."""
    for found in _LINE.finditer(text):
        yield found.group()


def undecoded(text: str) -> str | None:
    """Why a piece of `read_text` is not UTF-8, if it is not."""
    found = _ESCAPED.search(text)
    if found is None:
        return None
    byte = ord(found.group()) - 0xDC00
    return (
        f"byte 0x{byte:02x} is not UTF-8 (Latin-1 or Windows-1252, perhaps): save the file as UTF-8"
    )


@dataclass(frozen=True)
class _Piece:
    """What the reader takes for a record: `lines[start:end]`. `doubtful`: it lies inside what a
    broken record may have swallowed."""

    start: int
    end: int
    cells: tuple[str, ...] = ()
    fault: str | None = None
    doubtful: bool = False

    @property
    def blank(self) -> bool:
        return self.fault is None and len(self.cells) < 2 and not "".join(self.cells).strip()


def read_csv(path: Path, label_field: str) -> Table:
    """The records of a CSV file with a header line, read strictly: no row is swallowed, and a
    ragged one is named. What stands in `label_field` tells rows from lines of a text.

    A quotation mark that opens a field and closes elsewhere, or never, makes a reader take the rows
    between for a part of one text. Such a record is named as broken, and reading goes on with the
    next line. Source: RFC 4180.

    Raises `DataError` when it cannot be read or its header is broken or names a column twice.
    """
    lines = list(lines_of(read_text(path)))
    with _fields_of_any_length():
        pieces = [piece for piece in _pieces(lines, 0, len(lines)) if not piece.blank]
        if not pieces:
            return Table((), ())
        columns = _columns(path, pieces[0])
        label = columns.index(label_field) if label_field in columns else None
        rows = _Rows(lines, columns, label, _known_labels(pieces[1:], len(columns), label))
        return Table(columns, tuple(rows.records(pieces[1:])))


def _pieces(lines: Sequence[str], start: int, stop: int) -> Iterator[_Piece]:
    """The records of `lines[start:stop]`; after a broken one it goes on with the next line."""
    doubt = start
    while start < stop:
        first = start
        reader = csv.reader((lines[place] for place in range(start, stop)), strict=True)
        try:
            for cells in reader:
                end = first + reader.line_num
                yield _Piece(start, end, tuple(cells), doubtful=start < doubt)
                start = end
        except csv.Error as error:
            doubt = max(doubt, first + reader.line_num)
            yield _Piece(start, start + 1, fault=_quoting(error, start, doubt))
            start += 1


def _quoting(error: csv.Error, start: int, end: int) -> str:
    """Why the record that begins in `lines[start]` is broken; the reader gave up before `end`."""
    if "end of data" in str(error):
        return "a quotation mark opens in it and closes nowhere"
    if "expected after" not in str(error):
        return f"it is no CSV that can be read ({error})"
    where = "it" if end == start + 1 else f"line {end}"
    return f"its quotation marks do not pair: a text goes on after the closing one in {where}"


def _columns(path: Path, header: _Piece) -> tuple[str, ...]:
    fault = header.fault or undecoded("".join(header.cells))
    if fault is not None:
        raise DataError(f"{path} line {header.start + 1}, the header: {fault}")
    names = _plain(header.cells)
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise DataError(
            f"{path} has the column {quoted(twice[0])} {names.count(twice[0])} times: rename or "
            "remove all but one"
        )
    return names


def _plain(cells: Sequence[str]) -> tuple[str, ...]:
    """Names of columns without blanks around them, and without the marks of joined files."""
    return tuple(cell.strip().strip("\ufeff\u200b").strip() for cell in cells)


def _known_labels(pieces: Sequence[_Piece], width: int, label: int | None) -> frozenset[str]:
    """The labels of rows beyond doubt, and those that stand in two rows or more."""
    if label is None:
        return frozenset()
    counts = Counter(piece.cells[label] for piece in pieces if len(piece.cells) == width)
    known = {text for text, count in counts.items() if count > 1}
    doubt = False
    for piece in pieces:
        if len(piece.cells) != width:
            doubt = doubt or piece.fault is not None
            continue
        text = piece.cells[label]
        doubt = (doubt and text not in known) or piece.doubtful
        if not doubt and piece.end == piece.start + 1:
            known.add(text)
    return frozenset(known)


@dataclass(frozen=True)
class _Rows:
    """Tells which pieces are rows. `labels`: what stands in the column `label` of plain rows."""

    lines: Sequence[str]
    columns: tuple[str, ...]
    label: int | None
    labels: frozenset[str]

    def records(self, pieces: Sequence[_Piece]) -> Iterator[Record]:
        waiting = list(reversed(pieces))
        doubt = False  # behind a broken record, until a row that is one beyond doubt
        while waiting:
            piece = waiting.pop()
            if piece.blank:
                continue
            fault = piece.fault or self._fault(piece, doubt or piece.doubtful)
            broken = piece.fault is not None
            if fault is None and self._swallowed(piece):
                broken = True
                fault = (
                    f"a quotation mark opens here and closes in line {piece.end}, over lines that "
                    "look like rows; if it is one text, write it as JSON lines"
                )
                inner = _pieces(self.lines, piece.start + 1, piece.end)
                waiting += reversed([replace(part, doubtful=True) for part in inner])
            doubt = broken or (doubt and fault is not None)
            fields = dict(zip(self.columns, piece.cells, strict=True)) if fault is None else {}
            yield Record(piece.start + 1, fields, fault)

    def _fault(self, piece: _Piece, doubt: bool) -> str | None:
        cells, width = piece.cells, len(self.columns)
        if doubt and not self._beyond_doubt(piece):
            return "it belongs to the broken record before it"
        if len(cells) != width:
            hint = ": a comma within a text needs quotation marks" if len(cells) > width else ""
            return f"it has {len(cells)} fields, the header has {width}{hint}"
        if _plain(cells) == self.columns:
            return "it is the header once more"
        if self._stray_mark(piece):
            return f"a quotation mark stands alone in its label {quoted(cells[self.label or 0])}"
        whole = "".join(cells)
        return "it holds a NUL character" if "\0" in whole else undecoded(whole)

    def _stray_mark(self, piece: _Piece) -> bool:
        """Whether the label has a quotation mark that is none of CSV's own: `red"`."""
        label = "" if self.label is None else piece.cells[self.label]
        escaped = label.replace('"', '""')
        return '"' in label and escaped not in "".join(self.lines[piece.start : piece.end])

    def _beyond_doubt(self, piece: _Piece) -> bool:
        """Whether what follows a broken record is a row again: whole, of a label that others have,
        and without the mark that closes the broken text."""
        if len(piece.cells) != len(self.columns):
            return False
        marks = sum(line.count('"') for line in self.lines[piece.start : piece.end])
        known = self.label is None or piece.cells[self.label] in self.labels
        return known and marks % 2 == 0

    def _swallowed(self, piece: _Piece) -> bool:
        """Whether a text over several lines is rows: most of its lines end in a label, or all are
        rows by their form."""
        if piece.end == piece.start + 1:
            return False
        for place, cell in enumerate(piece.cells):
            lines = _LINE_END.split(cell)
            if len(lines) == 1:
                continue
            inside = [self._row(piece.cells, place, lines, number) for number in range(len(lines))]
            labelled = sum(self._ends_in_label(row, at) for row, at in inside if row)
            if 2 * labelled >= len(lines):
                return True
            if len(lines) - 2 >= _FEWEST_ROWS and all(row for row, _ in inside[1:-1]):
                return True
        return False

    def _row(
        self, cells: Sequence[str], place: int, lines: Sequence[str], number: int
    ) -> tuple[list[str], range]:
        """A line of the text in cell `place` as the row that it may be, and which of the row's
        cells it gives; none where it has not a row's form."""
        given = next(csv.reader([lines[number]]), [])
        before = list(cells[:place]) if number == 0 else []
        after = list(cells[place + 1 :]) if number == len(lines) - 1 else []
        row = [*before, *given, *after]
        prose = len(given) < 2 or any(cell.startswith(" ") for cell in given[1:])
        if prose or len(row) != len(self.columns):
            return [], range(0)
        return row, range(len(before), len(before) + len(given))

    def _ends_in_label(self, row: Sequence[str], given: range) -> bool:
        return self.label is not None and self.label in given and row[self.label] in self.labels


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """Python's reader gives up at 128 KiB a field, unless the whole process is told otherwise."""
    usual = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(usual)


def read_json(path: Path) -> Table:
    """The records of JSON lines, one object a line, or of one array of objects. Raises `DataError`
    when it cannot be read."""
    text = read_text(path)
    array = _array(path, text)
    if array is not None:
        return _table([_record(place, item) for place, item in enumerate(array, 1)], _ARRAY_TITLE)
    lines = enumerate(lines_of(text), start=1)
    return _table([_parsed(line, content) for line, content in lines if content.strip()], "line")


def _array(path: Path, text: str) -> list[Any] | None:
    """The items of a file that is one array, None for lines; one object is neither."""
    start = text.lstrip()[:1]
    one_object = start == "{" and path.suffix.lower() == ".json"
    if start != "[" and not one_object:
        return None
    try:
        whole = json.loads(text, object_pairs_hook=_each_key_once)
    except Exception:  # not one value, or broken: its lines tell where
        return None
    if isinstance(whole, list):
        # a lone line that is a list is a broken record, not an array of none
        return whole if not whole or any(isinstance(item, dict) for item in whole) else None
    if "\n" not in text.strip():
        return None
    raise DataError(
        f"{path} is one object ({column_listing(list(whole))}), not an array of records: write an "
        "array, or an object a line"
    )


def _parsed(line: int, content: str) -> Record:
    fault = undecoded(content)
    if fault is not None:
        return Record(line, {}, fault)
    try:
        return _record(line, json.loads(content, object_pairs_hook=_each_key_once))
    except MemoryError:
        raise
    except Exception as error:  # also RecursionError: what a line may do to the parser is open
        return Record(line, {}, f"it is no JSON that can be read ({reason(error)})")


def _record(line: int, item: object) -> Record:
    if not isinstance(item, dict):
        return Record(line, {}, f"it is {type_in_words(item)}, not an object")
    return Record(line, item)


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {quoted(twice)} stands in it twice")
    return found


def _table(records: Sequence[Record], line_title: str) -> Table:
    columns = dict.fromkeys(key for record in records for key in record.fields)
    return Table(tuple(columns), tuple(records), line_title)


def write_json_lines(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write `(text, label)` rows as a JSON lines table."""
    with path.open("w", encoding="utf-8") as file:
        for text, label in rows:
            file.write(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n")
