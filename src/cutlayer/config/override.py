"""What is typed for a setting, made into its value: text stays as it is typed.

YAML is for what has brackets: a path such as `photos #2`, a column `no` or a number `010` would be
another to it.
"""

import contextlib
from collections.abc import Sequence
from types import NoneType
from typing import Any, get_args, get_origin

import yaml

from cutlayer.config.keys import find_field, sections
from cutlayer.config.plain_yaml import PlainLoader
from cutlayer.config.section import kinds, names_of
from cutlayer.errors import ConfigError, quoted

_NULLS = ("null", "~", "")
_DEEPEST = 50


def override_value(key: str, text: str) -> Any:
    """The value of the setting `key` that somebody typed `text` for.

    Null where it may be; a list or mapping where it may be one and brackets say so; a list of one
    text where it must be a list of texts; else the text. Raises ConfigError for brackets that YAML
    cannot read.
    """
    field = find_field(key)
    if field is None:
        return text
    possible = list(kinds(field.annotation))
    lists = [kind for kind in possible if get_origin(kind) is tuple]
    texts = any(str in kinds(get_args(kind)[0]) for kind in lists)
    if NoneType in possible and text.strip() in _NULLS:
        return None
    if lists and text.lstrip().startswith("["):
        return _yaml(key, text, yaml.BaseLoader if texts else PlainLoader)
    if sections(key) and text.lstrip().startswith("{"):
        return _yaml(key, text, PlainLoader)
    if texts and str not in possible and text not in names_of(field.annotation):
        return [text]
    return _number(text, possible)


def refuse_depth(text: str) -> None:
    """Raises ValueError for more brackets in brackets than settings have: YAML's reader takes
    seconds for thousands."""
    depth = deepest = 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        deepest = max(deepest, depth)
    if deepest > _DEEPEST:
        raise ValueError(f"{deepest} brackets in brackets")


def _number(text: str, possible: Sequence[Any]) -> int | float | str:
    """The number that a text is, where it may be one."""
    for kind in (int, float):
        if kind in possible:
            with contextlib.suppress(ValueError):
                return kind(text)
    return text


def _yaml(key: str, text: str, loader: type[yaml.BaseLoader] | type[PlainLoader]) -> Any:
    try:
        refuse_depth(text)
        return yaml.load(text, Loader=loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{key}: cannot read the value {quoted(text)} as YAML") from error
