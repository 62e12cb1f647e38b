"""Settings that were given and are not read: the run would be another than its user thinks.

Only where that depends on another section, or on a setting that is no name: the keys of a choice
are its own. The schema says so by `ReadBy`; this compares it with a configuration. A value that is
the default changes nothing and passes: whole configurations are written out and read back.
"""

from collections.abc import Collection, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from cutlayer.config.keys import choices_of
from cutlayer.config.schema import Config
from cutlayer.config.section import Choices, ReadBy, Section
from cutlayer.errors import shown


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
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name, _MISSING)
    return value


def _left(values: Mapping[str, Any], keys: Set[str], prefix: str = "") -> dict[str, Any]:
    """What is left without these keys; a section whose name goes is another, and goes whole."""
    return {
        name: _left(value, keys, f"{prefix}{name}.") if isinstance(value, Mapping) else value
        for name, value in values.items()
        if not keys & {f"{prefix}{name}", f"{prefix}{name}.name"}
    }
