"""One JSON object read strictly: each field has its type and bounds, a mistake names file and key.

Knows nothing of what the fields mean. Fields that nobody asks for are left alone, so that a later
version may write more.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeGuard

from cutlayer.errors import RunError

# JSON bounds no integer; a double and a file size do
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class JsonFields:
    """The fields of a JSON object and `where` it stands, for messages.

    Every getter raises RunError when the field is missing, of another type or out of its bounds.
    """

    where: str
    values: Mapping[str, object]

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.values.get(name) is not None

    def text(self, name: str) -> str:
        """A string."""
        value = self._value(name)
        if not isinstance(value, str):
            raise self._wrong(name, value, "a string")
        return value

    def count(self, name: str) -> int:
        """A whole number >= 0."""
        value = self._value(name)
        if not _is_count(value):
            raise self._wrong(name, value, "a whole number >= 0")
        return value

    def number(self, name: str) -> float:
        """A finite number >= 0."""
        value = self._value(name)
        if not _is_measure(value):
            raise self._wrong(name, value, "a finite number >= 0")
        return float(value)

    def loss(self, name: str) -> float:
        """A number; NaN if there is null, as where a run diverged."""
        value = self._value(name)
        if value is None:
            return math.nan
        if not _is_number(value):
            raise self._wrong(name, value, "a number")
        return float(value)

    def child(self, name: str) -> "JsonFields":
        """An object."""
        value = self._value(name)
        if not isinstance(value, dict):
            raise self._wrong(name, value, "an object")
        return JsonFields(self._label(name), value)

    def children(self, name: str) -> tuple["JsonFields", ...]:
        """A list of objects."""
        rows = self._list(name)
        if not all(isinstance(row, dict) for row in rows):
            raise self._wrong(name, rows, "a list of objects")
        label = self._label(name)
        return tuple(
            JsonFields(f"{label}[{index}]", row)
            for index, row in enumerate(rows)
            if isinstance(row, dict)
        )

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of finite numbers >= 0."""
        rows = self._list(name)
        if not all(_is_measure(row) for row in rows):
            raise self._wrong(name, rows, "a list of finite numbers >= 0")
        return tuple(float(row) for row in rows if _is_measure(row))

    def counts(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers >= 0."""
        rows = self._list(name)
        if not _are_counts(rows):
            raise self._wrong(name, rows, "a list of whole numbers >= 0")
        return tuple(rows)

    def rows_of_counts(self, name: str) -> tuple[tuple[int, ...], ...]:
        """A list of lists of whole numbers >= 0."""
        rows = self._list(name)
        good = [tuple(row) for row in rows if isinstance(row, list) and _are_counts(row)]
        if len(good) != len(rows):
            raise self._wrong(name, rows, "a list of lists of whole numbers >= 0")
        return tuple(good)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        rows = self._list(name)
        good = tuple(row for row in rows if isinstance(row, str))
        if len(good) != len(rows):
            raise self._wrong(name, rows, "a list of strings")
        return good

    def all_counts(self) -> Mapping[str, int]:
        """Every field of this object, each a whole number >= 0."""
        return MappingProxyType({name: self.count(name) for name in self.values})

    def _list(self, name: str) -> list[object]:
        value = self._value(name)
        if not isinstance(value, list):
            raise self._wrong(name, value, "a list")
        return value

    def _label(self, name: str) -> str:
        return f"{self.where}: {name}"

    def _value(self, name: str) -> object:
        if name not in self.values:
            raise RunError(f"{self.where}: the key {name!r} is missing")
        return self.values[name]

    def _wrong(self, name: str, value: object, needed: str) -> RunError:
        return RunError(f"{self._label(name)} is {_excerpt(value)}, needed is {needed}")


def parse_object(where: str, text: str) -> JsonFields:
    """The fields of a JSON object given as text.

    Raises:
        RunError: the text is not one JSON object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise RunError(f"{where}: not valid JSON ({problem})") from problem
    if not isinstance(value, dict):
        raise RunError(f"{where}: is {_excerpt(value)}, needed is an object")
    return JsonFields(where, value)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _are_counts(rows: list[object]) -> TypeGuard[list[int]]:
    return all(_is_count(row) for row in rows)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, float) or _is_count(value)


def _is_measure(value: object) -> TypeGuard[int | float]:
    return _is_number(value) and 0 <= value < math.inf


def _excerpt(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
