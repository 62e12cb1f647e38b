"""The dotted keys of a configuration, from its schema: what there is, and which choice reads it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from cutlayer.config.schema import Config
from cutlayer.config.section import Choices, ReadBy, Section, choice_name, read_by, sections_of


@dataclass(frozen=True)
class Key:
    """A setting: its dotted key, what it means, its default, and which choice reads it."""

    key: str
    description: str
    default: Any
    rules: tuple[ReadBy, ...]


def keys() -> Iterator[Key]:
    """Every setting, also of sections that are not there unless given."""
    yield from _keys((Config,), "", None)


def named_sections() -> Iterator[str]:
    """The sections that may be given as a name alone, by dotted key."""
    yield from _named((Config,), "")


def find_field(key: str) -> FieldInfo | None:
    """The field of a setting or section, of the first choice that has it; None if there is no such
    key."""
    among: Sequence[type[Section]] = (Config,)
    field = None
    for name in key.split("."):
        having = (one.model_fields[name] for one in among if name in one.model_fields)
        field = next(having, None)
        if field is None:
            return None
        among = sections_of(field.annotation)
    return field


def sections(key: str) -> tuple[str, ...]:
    """The names that a section has, whatever is chosen ("" for the whole)."""
    return tuple(dict.fromkeys(name for one in sections_at(key) for name in one.model_fields))


def sections_at(key: str) -> tuple[type[Section], ...]:
    """What a section may be ("" for the whole): more than one where it is a choice."""
    field = find_field(key)
    return (Config,) if not key else () if field is None else sections_of(field.annotation)


def choices_with(key: str, name: str) -> tuple[str, ...]:
    """The names of those choices of a section that have a setting of this name."""
    field = find_field(key) if key else None
    if field is None or choices_of(field) is None:
        return ()
    having = (one for one in sections_of(field.annotation) if name in one.model_fields)
    return tuple(choice_name(one) for one in having)


def chosen_values(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A section's values with new ones; of the old ones those that are settings of what is chosen
    now."""
    field, among = find_field(key), sections_at(key)
    chosen = None if field is None else choices_of(field)
    if chosen is not None:
        name = new.get("name", old.get("name", chosen.default))
        among = tuple(one for one in among if choice_name(one) == name)
    known = {name for one in among for name in one.model_fields}
    return {name: value for name, value in old.items() if name in known} | dict(new)


def choices_of(field: FieldInfo) -> Choices | None:
    """How the sections that a field may hold are told apart, if there are several."""
    return next((each for each in field.metadata if isinstance(each, Choices)), None)


def _keys(models: Sequence[type[Section]], prefix: str, chosen: Choices | None) -> Iterator[Key]:
    for name in dict.fromkeys(name for one in models for name in one.model_fields):
        having = [one for one in models if name in one.model_fields]
        field, key = having[0].model_fields[name], f"{prefix}{name}"
        inner = sections_of(field.annotation)
        if chosen is not None and name == "name":
            yield Key(key, _choice_words(models), chosen.default, ())
        elif not inner or field.is_required() or field.default is None:
            yield Key(key, field.description or "", _default(field), _rules(models, having, field))
        yield from _keys(inner, f"{key}.", choices_of(field))


def _choice_words(models: Sequence[type[Section]]) -> str:
    words = ((choice_name(one), (one.__doc__ or "").rstrip(".")) for one in models)
    return "; ".join(f"{name}: {what[0].lower()}{what[1:]}" for name, what in words)


def _default(field: FieldInfo) -> Any:
    return None if field.is_required() else field.default


def _rules(
    models: Sequence[type[Section]], having: Sequence[type[Section]], field: FieldInfo
) -> tuple[ReadBy, ...]:
    """Which choices have a setting, if not all; and what else it is read with."""
    own = tuple(each for each in field.metadata if isinstance(each, ReadBy))
    if len(having) == len(models):
        return own
    return (read_by("name", *(choice_name(one) for one in having)), *own)


def _named(models: Sequence[type[Section]], prefix: str) -> Iterator[str]:
    fields = {name: field for one in models for name, field in one.model_fields.items()}
    for name, field in fields.items():
        inner = sections_of(field.annotation)
        if any("name" in one.model_fields for one in inner):
            yield f"{prefix}{name}"
        yield from _named(inner, f"{prefix}{name}.")
