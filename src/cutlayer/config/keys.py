"""The dotted keys of a configuration, from its schema: what there is, and which choice reads it."""

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from cutlayer.config.schema import Config
from cutlayer.config.section import (
    Choices,
    PluginSection,
    ReadBy,
    Section,
    choice_name,
    choices_of,
    find_field,
    read_by,
    sections_at,
    sections_of,
)
from cutlayer.errors import ConfigError, shown


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


def chosen_values(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A section's values with new ones; of the old ones those that are settings of what is chosen
    now."""
    field, among = find_field(Config, key), sections_at(Config, key)
    chosen = None if field is None else choices_of(field)
    if chosen is not None:
        name = new.get("name", old.get("name", chosen.default))
        among = tuple(one for one in among if choice_name(one) == name)
    known = {name for one in among for name in one.model_fields}
    return {name: value for name, value in old.items() if name in known} | dict(new)


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


# Settings that were given and are not read: the run would be another than its user thinks.
#
# Only where that depends on another section, or on a setting that is no name: the keys of a choice
# are its own. The schema says so by `ReadBy`; this compares it with a configuration. A value that
# is the default changes nothing and passes: whole configurations are written out and read back.


@dataclass(frozen=True)
class Unread:
    """A setting that nobody reads, and the other one that is why: its whole key and its value."""

    key: str
    value: Any
    rule: ReadBy
    other: str
    beside: Any

    def __str__(self) -> str:
        return (
            f"{self.key} {shown(self.value)} is not read with {self.other} {shown(self.beside)},"
            f" but with {self.rule}: leave it out, or change {self.other}"
        )


def unread(config: Config, given: Collection[str] = ()) -> Iterator[Unread]:
    """Every such setting, in the schema's order. `given`: keys whose default counts as well."""
    for key, value, default, rules in _settings(config, "", (), None):
        if value is None or (value == default and key not in given):
            continue
        for rule, other in rules:
            beside = _value(config, other)
            if beside is not _MISSING and not rule.holds(beside):
                yield Unread(key, value, rule, other, beside)
                break


def refuse_unread(
    config: Config, given: Collection[str] = (), also_read: Collection[str] = ()
) -> None:
    """Raises ConfigError for the first of them, but for those that are `also_read`."""
    for each in unread(config, given):
        if each.key not in also_read:
            raise ConfigError(str(each))


def without(config: Config, keys: Collection[str]) -> Config:
    """The configuration with the defaults for these keys."""
    return Config.model_validate(
        _left(config.model_dump(mode="json", exclude_unset=True), frozenset(keys))
    )


_Rules = tuple[tuple[ReadBy, str], ...]
# what a choice does not have says nothing of others
_MISSING = object()


def _settings(
    section: Section, prefix: str, outer: _Rules, chosen: Choices | None
) -> Iterator[tuple[str, Any, Any, _Rules]]:
    """Each setting's key, value and default, and its rules with the whole keys they ask for."""
    for name, field in type(section).model_fields.items():
        own = (each for each in field.metadata if isinstance(each, ReadBy))
        rules = (*outer, *((rule, _whole(rule.key, prefix)) for rule in own))
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _settings(value, f"{prefix}{name}.", rules, choices_of(field))
        elif chosen is not None and name == "name":
            yield f"{prefix}{name}", value, chosen.default, rules
        else:
            yield f"{prefix}{name}", value, field.default, rules


def _whole(key: str, prefix: str) -> str:
    return key if "." in key else f"{prefix}{key}"


def _value(config: Config, key: str) -> Any:
    section: Any = None
    value: Any = config
    for name in key.split("."):
        section, value = value, getattr(value, name, _MISSING)
    # what another package's choice reads is its own affair
    return _MISSING if isinstance(section, PluginSection) else value


def _left(values: Mapping[str, Any], keys: Set[str], prefix: str = "") -> dict[str, Any]:
    """What is left without these keys; a section whose name goes is another, and goes whole."""
    return {
        name: _left(value, keys, f"{prefix}{name}.") if isinstance(value, Mapping) else value
        for name, value in values.items()
        if not keys & {f"{prefix}{name}", f"{prefix}{name}.name"}
    }
