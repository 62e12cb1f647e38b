"""The dotted keys of a configuration, from its schema: what there is, and which choice reads it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cutlayer.config.schema import Config
from cutlayer.config.section import ReadBy, kinds


@dataclass(frozen=True)
class Key:
    """A setting: its dotted key, what it means, its default, and which choice reads it."""

    key: str
    description: str
    default: Any
    rules: tuple[ReadBy, ...]


def keys() -> Iterator[Key]:
    """Every setting, also of sections that are not there unless given."""
    yield from _keys(Config, "")


def named_sections() -> Iterator[str]:
    """The sections that may be given as a name alone, by dotted key."""
    yield from _named(Config, "")


def find_field(key: str) -> FieldInfo | None:
    """The field of a setting or section; None if there is no such key."""
    model: type[BaseModel] | None = Config
    field = None
    for name in key.split("."):
        field = None if model is None else model.model_fields.get(name)
        if field is None:
            return None
        model = _section(field)
    return field


def sections(key: str) -> tuple[str, ...]:
    """The names that a section has ("" for the whole)."""
    field = find_field(key)
    model = Config if not key else None if field is None else _section(field)
    return () if model is None else tuple(model.model_fields)


def _keys(model: type[BaseModel], prefix: str) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        inner, key = _section(field), f"{prefix}{name}"
        if inner is None or field.default is None:
            rules = tuple(each for each in field.metadata if isinstance(each, ReadBy))
            yield Key(key, field.description or "", field.default, rules)
        if inner is not None:
            yield from _keys(inner, f"{key}.")


def _named(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = _section(field)
        if inner is not None:
            if "name" in inner.model_fields:
                yield f"{prefix}{name}"
            yield from _named(inner, f"{prefix}{name}.")


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a field holds, now or if given."""
    found = (kind for kind in kinds(field.annotation) if isinstance(kind, type))
    return next((kind for kind in found if issubclass(kind, BaseModel)), None)
