"""One JSON object read strictly: each field has its type and bounds, a mistake names file and key.

Knows nothing of what the fields mean. Fields that nobody asks for are left alone, so that a later
version may write more.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cutlayer.errors import RunError


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
        return _text(self._label(name), self._value(name))

    def count(self, name: str) -> int:
        """A whole number >= 0."""
        return _count(self._label(name), self._value(name))

    def number(self, name: str) -> float:
        """A finite number >= 0."""
        return _number(self._label(name), self._value(name))

    def loss(self, name: str) -> float:
        """A number, infinite or NaN if the run diverged."""
        value = self._value(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong(self._label(name), value, "a number")
        return float(value)

    def children(self, name: str) -> tuple["JsonFields", ...]:
        """A list of objects."""
        rows = _rows(self._label(name), self._value(name))
        return tuple(fields(f"{self._label(name)}[{index}]", row) for index, row in rows)

    def child(self, name: str) -> "JsonFields":
        """An object."""
        return fields(self._label(name), self._value(name))

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of finite numbers >= 0."""
        rows = _rows(self._label(name), self._value(name))
        return tuple(_number(f"{self._label(name)}[{index}]", row) for index, row in rows)

    def counts(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers >= 0."""
        return counts(self._label(name), self._value(name))

    def rows_of_counts(self, name: str) -> tuple[tuple[int, ...], ...]:
        """A list of lists of whole numbers >= 0."""
        rows = _rows(self._label(name), self._value(name))
        return tuple(counts(f"{self._label(name)}[{index}]", row) for index, row in rows)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        rows = _rows(self._label(name), self._value(name))
        return tuple(_text(f"{self._label(name)}[{index}]", row) for index, row in rows)

    def all_counts(self) -> Mapping[str, int]:
        """Every field of this object, each a whole number >= 0."""
        return MappingProxyType({name: self.count(name) for name in self.values})

    def _label(self, name: str) -> str:
        return f"{self.where}: {name}"

    def _value(self, name: str) -> object:
        if name not in self.values:
            raise RunError(f"{self.where}: the key {name!r} is missing")
        return self.values[name]


def parse_object(where: str, text: str) -> JsonFields:
    """The fields of a JSON object given as text.

    Raises:
        RunError: the text is not one JSON object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise RunError(f"{where}: not valid JSON ({problem})") from problem
    return fields(where, value)


def fields(where: str, value: object) -> JsonFields:
    """The fields of a decoded JSON value, which must be an object.

    Raises:
        RunError: it is something else.
    """
    if not isinstance(value, dict):
        raise _wrong(where, value, "an object")
    return JsonFields(where, MappingProxyType(value))


def counts(where: str, value: object) -> tuple[int, ...]:
    """A list of whole numbers >= 0.

    Raises:
        RunError: it is something else.
    """
    return tuple(_count(f"{where}[{index}]", row) for index, row in _rows(where, value))


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(where, value, "a string")
    return value


def _count(where: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _wrong(where, value, "a whole number >= 0")
    return value


def _number(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(where, value, "a number >= 0")
    if not (math.isfinite(value) and value >= 0):
        raise _wrong(where, value, "a finite number >= 0")
    return float(value)


def _rows(where: str, value: object) -> list[tuple[int, object]]:
    if not isinstance(value, list):
        raise _wrong(where, value, "a list")
    return list(enumerate(value))


def _wrong(where: str, value: object, needed: str) -> RunError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return RunError(f"{where}: is {shown}, needed is {needed}")
