"""JSON lines, one object a line, and JSON files that are one array of objects."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cutlayer.data.faults import reason
from cutlayer.data.labels import kind, listing
from cutlayer.data.records import Record, Table
from cutlayer.data.text_file import lines_of, read_text, undecoded
from cutlayer.errors import DataError
from cutlayer.words import quoted

_ARRAY_TITLE = "record"  # places in an array are counted, since its lines say little


def read_json(path: Path) -> Table:
    """The records of a JSON file of either form. Raises `DataError` when it cannot be read."""
    text = read_text(path)
    array = _array(path, text)
    if array is not None:
        return _table([_record(place, item) for place, item in enumerate(array, 1)], _ARRAY_TITLE)
    return _table(list(_lines(text)), "line")


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
        f"{path} is one object ({listing(list(whole))}), not an array of records: write an "
        "array, or an object a line"
    )


def _lines(text: str) -> Iterator[Record]:
    for line, content in enumerate(lines_of(text), start=1):
        if content.strip():
            yield _parsed(line, content)


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
        return Record(line, {}, f"it is {kind(item)}, not an object")
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
