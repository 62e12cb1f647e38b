"""The dotted keys of a configuration, and what is said of them: which choice reads each, help on a
section, a configuration with comments, a JSON schema.

All of it is read from the schema, where each setting has its meaning, its bounds and its default.
"""

import json
import math
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from cutlayer.config.schema import Config
from cutlayer.config.section import (
    Choices,
    PluginSection,
    ReadBy,
    Section,
    choice_name,
    choices_of,
    choices_with,
    find_field,
    read_by,
    sections_at,
    sections_of,
)
from cutlayer.errors import ConfigError, cut, nearest, shown


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
    """The configuration with the defaults for these keys, and for those that are not read then."""
    left = Config.model_validate(
        _left(config.model_dump(mode="json", exclude_unset=True), frozenset(keys))
    )
    more = {each.key for each in unread(left)} - {each.key for each in unread(config)}
    return without(left, more) if more else left


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


# What is said of settings: help on a section, a configuration with comments, a JSON schema.


_WIDTH = 96
_TYPES = {"integer": "whole number", "number": "number", "string": "text", "null": "null"}


def json_schema() -> dict[str, Any]:
    """The JSON schema of a configuration file, for editors."""
    schema = Config.model_json_schema()
    for name, field in Config.model_fields.items():
        section = sections_of(field.annotation)
        # a union says itself that a name will do
        if choices_of(field) is None and section and "name" in section[0].model_fields:
            property_ = schema["properties"][name]
            schema["properties"][name] = {"anyOf": [{"type": "string"}, property_]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "cutlayer configuration",
        "description": "A run of cutlayer.",
    }


def overview() -> str:
    """One line for each section, and one for each setting that is in none."""
    lines = []
    for name, field in Config.model_fields.items():
        among = sections_of(field.annotation)
        what = _what(field) if among else f"{field.description} ({_shown(field.default)})"
        if choices_of(field) is not None:
            what = f"{what.rstrip('.')}: {', '.join(choice_name(one) for one in among)}"
        lines += _wrapped(what, f"  {name if among else '--' + name:<11} ", " " * 14)
    return "\n".join(lines)


def section_help(key: str) -> str:
    """A section's choices and settings: type, bounds, default, meaning; of a setting, its own.

    Raises ConfigError for what is neither, naming the nearest.
    """
    key = key.strip("-").replace("-", "_")
    field, known = find_field(Config, key), {each.key: each for each in keys()}
    if field is None:
        hint = nearest(key, sorted({*known, *(name.rpartition(".")[0] for name in known)} - {""}))
        hint = f"known: {', '.join(Config.model_fields)}" if hint.startswith("known") else hint
        raise ConfigError(f"no settings are called {cut(key)}; {hint}")
    section, _, name = key.rpartition(".")
    if name == "name" and choices_with(Config, section, name):
        return section_help(section)
    among, chosen = sections_at(Config, key), choices_of(field)
    if not among:
        owner = next(one for one in sections_at(Config, section) if name in one.model_fields)
        return "\n".join(_setting(known[key], field, _properties()[owner.__name__][name]))
    lines = [f"{key}: {_what(field)}"]
    if chosen is None:
        return "\n".join([*lines, "", *_section(among[0], key, known)])
    lines += _wrapped(f"--{_option(key)} NAME chooses; what it reads is given beside it.", "", "")
    for one in among:
        name = choice_name(one)
        default = " (default)" if name == chosen.default else ""
        lines += ["", *_wrapped(f"{name}{default}: {one.__doc__}", "", "    ")]
        lines += _section(one, key, known)
    return "\n".join(lines)


def commented_yaml(config: Config) -> str:
    """The configuration as YAML with each setting's meaning; it reads back to the same values."""
    return "\n".join(_commented(config, "", ""))


def type_words(property_: Mapping[str, Any]) -> str:
    """What a value may be, from its JSON schema, in the words of a message."""
    match property_:
        case {"anyOf": options}:
            return " or ".join(dict.fromkeys(type_words(option) for option in options))
        case {"enum": names}:
            return ", ".join(str(name) for name in names)
        case {"const": name}:
            return str(name)
        case {"type": "boolean"}:
            return "true or false"
        case {"type": "array", "items": items}:
            return f"list of {type_words(items)}"
        case {"type": str(kind)} if kind in _TYPES:
            return ", ".join((_TYPES[kind], *_bounds(property_)))
        case _:
            return "keys and values"


def _bounds(property_: Mapping[str, Any]) -> Iterator[str]:
    low, above = property_.get("minimum"), property_.get("exclusiveMinimum")
    high, below = property_.get("maximum"), property_.get("exclusiveMaximum")
    if low is not None and high is not None:
        yield f"{_shown(low)} to {_shown(high)}"
        return
    bounds = {"at least": low, "above": above, "at most": high, "below": below}
    words = [f"{word} {_shown(bound)}" for word, bound in bounds.items() if bound is not None]
    if words:
        yield " and ".join(words)


@cache
def _properties() -> dict[str, dict[str, Any]]:
    """The JSON schema of each setting, by the class of its section."""
    schema = Config.model_json_schema()
    named = {name: one.get("properties", {}) for name, one in schema["$defs"].items()}
    return {**named, Config.__name__: schema["properties"]}


def _section(section: type[Section], key: str, known: Mapping[str, Key]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        whole = f"{key}.{name}"
        if name == "name" and choices_with(Config, key, name):
            continue
        if sections_of(field.annotation):
            what = f"{_what(field).rstrip('.')}. See --help {whole}."
            yield from _wrapped(what, f"  --{_option(whole)}: ", " " * 6)
        else:
            yield from _setting(known[whole], field, _properties()[section.__name__][name])


def _setting(key: Key, field: FieldInfo, property_: Mapping[str, Any]) -> Iterator[str]:
    default = "no default" if field.is_required() else _shown(field.default)
    yield f"  --{_option(key.key)}: {type_words(property_)} ({default})"
    rules = [f"read with {rule.key} {rule}" for rule in key.rules if rule.key != "name"]
    yield from _wrapped("; ".join([field.description or "", *rules]), " " * 6, " " * 6)


def _commented(section: Section, key: str, indent: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value, whole = getattr(section, name), f"{key}.{name}".lstrip(".")
        names = choices_with(Config, key, name) if name == "name" else ()
        if names:
            yield from _wrapped(", ".join(names), f"{indent}# ", f"{indent}# ")
        elif isinstance(value, Section):
            yield from _wrapped(_what(field), f"{indent}# ", f"{indent}# ")
        else:
            words = type_words(_properties()[type(section).__name__][name])
            yield from _wrapped(f"{field.description} ({words})", f"{indent}# ", f"{indent}# ")
        if isinstance(value, Section):
            yield f"{indent}{name}:"
            yield from _commented(value, whole, f"{indent}  ")
        else:
            plain = section.model_dump(mode="json", include={name})[name]
            in_brackets = yaml.safe_dump([plain], default_flow_style=True, width=math.inf)
            yield f"{indent}{name}: {in_brackets.strip()[1:-1]}"
        if not key:
            yield ""


def _what(field: FieldInfo) -> str:
    """What a section is: a choice says so where it is a field, others where they are defined."""
    if field.description:
        return field.description
    return " ".join((sections_of(field.annotation)[0].__doc__ or "").split())


def _option(key: str) -> str:
    return key.replace("_", "-")


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _wrapped(text: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
