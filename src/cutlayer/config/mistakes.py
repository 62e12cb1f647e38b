"""What is wrong with a configuration, in one line: the whole key, the value, what to do.

Knows pydantic's errors and how sections lie in one another.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cutlayer.config.section import (
    PLUGIN,
    Section,
    choice_name,
    choices_of,
    choices_with,
    find_field,
    registered,
    sections,
    sections_at,
)
from cutlayer.errors import cut, nearest, quoted, shown


def explain(root: type[Section], error: ValidationError) -> str:
    """The first mistake of what was to be a `root`."""
    return _explain(root, _first(root, error.errors()))


def _first(root: type[Section], errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """The first mistake; where a value may be one thing or another, what it came nearest to."""
    where = _where(root, errors[0])
    return max((e for e in errors if _where(root, e) == where), key=lambda error: len(error["loc"]))


def _where(root: type[Section], error: ErrorDetails) -> str:
    """The whole key: of the parts of a place, those that are names of it; of a key that should not
    be there, or is not, its section's."""
    key, place = "", error["loc"]
    for part in place[:-1] if error["type"] in ("extra_forbidden", "missing") else place:
        longer = f"{key}.{part}".lstrip(".")
        if "." not in str(part) and find_field(root, longer) is not None:
            key = longer
    return key


def _explain(root: type[Section], error: ErrorDetails) -> str:
    where, value = _where(root, error), quoted(error["input"])
    if error["type"] == "union_tag_invalid":
        return _unknown_name(root, where, error["ctx"]["tag"])
    if error["type"] == "missing":
        key, chosen = error["loc"][-1], error["loc"][-2]
        return f"{where}.name {chosen} needs {where}.{key}: it has no default"
    if error["type"] == "extra_forbidden":
        word = str(error["loc"][-1])
        readers = choices_with(root, where, word)
        if readers:
            return (
                f"{where}.{word} {shown(error['input'])} is not read with {where}.name"
                f" {error['loc'][-2]}, but with {' or '.join(readers)}: leave it out, or change"
                f" {where}.name"
            )
        if "." in word and find_field(root, f"{where}.{word}".lstrip(".")) is not None:
            hint = f"nest it: {word.replace('.', ': {')}: ...{'}' * word.count('.')}"
        else:
            hint = nearest(word, list(sections(root, where)))
        return f"unknown configuration key {cut(f'{where}.{word}'.lstrip('.'))}; {hint}"
    if error["type"] == "model_type":
        return f"{where or 'a configuration'} must hold keys and values, not {value}"
    if error["type"] == "tuple_type":
        return f"{where} must be a list, such as [a, b], not {value}"
    if error["type"] == "string_pattern_mismatch" and where.endswith(".name"):
        return f"{where}: should be {PLUGIN}, with one colon, not {value}"
    if error["type"] == "string_type":
        quotes = (
            "" if isinstance(error["input"], list | dict | type(None)) else ": put it in quotes"
        )
        return f"{where}: should be text, not {value}{quotes}"
    return f"{where}: {_asked(error)}, not {value}"


def _unknown_name(root: type[Section], where: str, given: str) -> str:
    """Of a section that nobody knows by that name: all names, and the nearest."""
    known = [choice_name(one) for one in sections_at(root, where)]
    field = find_field(root, where)
    choices = None if field is None else choices_of(field)
    plugins = [] if choices is None or choices.plugins is None else registered(choices.plugins)
    *names, last = map(repr, known)
    message = f"{where}.name: should be {', '.join(names)} or {last}, not {quoted(given)}"
    hint = nearest(given, [*known, *plugins])
    return f"{message}; {hint}" if hint.endswith("?") else message


def _asked(error: ErrorDetails) -> str:
    """What a value should be; bounds in their shortest words."""
    bounds = {name: _bound(value) for name, value in error.get("ctx", {}).items()}
    match error["type"]:
        case "greater_than_equal":
            return f"should be at least {bounds['ge']}"
        case "less_than_equal":
            return f"should be at most {bounds['le']}"
        case "greater_than":
            return f"should be above {bounds['gt']}"
        case "less_than":
            return f"should be below {bounds['lt']}"
        case _:
            return f"{error['msg'][0].lower()}{error['msg'][1:]}".replace("input should", "should")


def _bound(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
