"""YAML, overrides and Python's values into a `Config`, strictly; a `Config` into YAML."""

import contextlib
import hashlib
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import yaml

from cutlayer.config.keys import refuse_unread
from cutlayer.config.schema import Config
from cutlayer.config.section import find_field, kinds, names_of, sections
from cutlayer.errors import ConfigError, cut, quoted
from cutlayer.files import path_of

# of what was trained, in its adapter's folder
SETTINGS_FILE = "cutlayer.yaml"

# YAML whose numbers are what they look like.
#
# YAML 1.1, which PyYAML reads, takes 010 for eight and 12:30 for 750: both are texts here, so that
# a file and the command line mean the same by them.


_NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}


class PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader with these numbers."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute
        letter: [(tag, _NUMBERS.get(tag, pattern)) for tag, pattern in resolvers]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


# What is typed for a setting, made into its value: text stays as it is typed.
#
# YAML is for what has brackets: a path such as `photos #2`, a column `no` or a number `010` would
# be another to it.


_NULLS = ("null", "~", "")
_DEEPEST = 50


def override_value(key: str, text: str) -> Any:
    """The value of the setting `key` that somebody typed `text` for.

    Null where it may be; a list or mapping where it may be one and brackets say so; a list of one
    text where it must be a list of texts; else the text. Raises ConfigError for brackets that YAML
    cannot read.
    """
    field = find_field(Config, key)
    if field is None:
        return text
    possible = list(kinds(field.annotation))
    lists = [kind for kind in possible if get_origin(kind) is tuple]
    of = [get_args(kind)[0] for kind in lists]
    texts = any(str in kinds(each) or names_of(each) for each in of)
    if NoneType in possible and text.strip() in _NULLS:
        return None
    if lists and text.lstrip().startswith("["):
        return _yaml(key, text, yaml.BaseLoader if texts else PlainLoader)
    keyed = sections(Config, key) or any(get_origin(kind) is dict for kind in possible)
    if keyed and text.lstrip().startswith("{"):
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


# YAML and overrides into a `Config`, strictly; a `Config` into YAML.
#
# The command line takes the same road as the file: both end as one mapping that is checked once.


_MOST_BYTES = 1 << 20


def read_config(
    path: Path | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    also_read: Collection[str] = (),
) -> Config:
    """The configuration in a YAML file (None: the defaults) with overrides on top.

    Overrides go by dotted key: `{"codec.target_bits_up": 0.5, "scheme": "sft-overlap"}`. A text is
    read as on the command line: numbers, names and texts as they are, lists and mappings as YAML.
    A section that has a `name` may be given as that name alone (`codec: none`). `also_read`: keys
    that the caller reads whatever is chosen. Raises ConfigError for a file that cannot be read, an
    unknown key (naming the nearest), a value out of bounds, or one that the names chosen do not
    read.
    """
    changes = {} if overrides is None else overrides
    values = merged_values(None if path is None else path_of("path", path), changes)
    if "grid" in values:
        raise ConfigError(f"{path} is a sweep, not a configuration: `cutlayer sweep {path}`")
    return read_values(values, given=given_keys(values, changes), also_read=also_read)


def given_keys(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> set[str]:
    """The keys of the single settings that overrides give, which are in `values`."""
    return {key for name in overrides for key in _leaves(name, _at(values, name))}


def read_written(path: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """The configuration that a run has written, with overrides on top: whether all of it is read
    was asked before the run."""
    return Config.model_validate(merged_values(path, overrides or {}))


def merged_values(path: Path | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The file's values with the overrides on top, unchecked. Raises ConfigError."""
    return overridden({} if path is None else load_values(path), overrides)


def overridden(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A file's values with overrides by dotted key on top, unchecked. Raises ConfigError."""
    check_overrides(overrides)
    found = dict(values)
    for key, given in overrides.items():
        _override(found, key, override_value(key, given) if isinstance(given, str) else given)
    return found


def check_overrides(overrides: object) -> None:
    """Raises ConfigError for what are no settings by dotted key."""
    if not isinstance(overrides, Mapping) or not all(isinstance(key, str) for key in overrides):
        raise ConfigError(
            f"settings go by dotted key, such as {{'training.rounds': 3}}, not {quoted(overrides)}"
        )


def read_values(
    values: Mapping[str, Any], *, given: Collection[str] = (), also_read: Collection[str] = ()
) -> Config:
    """The configuration of a nested mapping, as a file holds it; `given`: keys that somebody asked
    for by name. Raises ConfigError."""
    config = Config.model_validate(values)
    refuse_unread(config, given, also_read)
    return config


def config_yaml(config: Config) -> str:
    """The configuration as YAML that reads back to the same values."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def flat_values(config: Config) -> dict[str, Any]:
    """Every value as JSON holds it, by dotted key; of a section that is not given, None."""
    return dict(_flat(config.model_dump(mode="json"), ""))


def config_sha256(config: Config) -> str:
    """A fingerprint of every value."""
    return hashlib.sha256(config_yaml(config).encode()).hexdigest()


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def load_values(path: Path) -> dict[str, Any]:
    """What a YAML file holds by key, unchecked. Raises ConfigError."""
    try:
        text = _text(path)
        refuse_depth(text)
        _refuse_doubles(path, yaml.compose(text, Loader=PlainLoader))
        values = yaml.load(text, Loader=PlainLoader)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = cut(" ".join(str(error).split()), 200)
        raise ConfigError(f"{path} is not YAML: {reason}") from error
    if values is None:
        warnings.warn(f"{path} is empty: all settings are the defaults", stacklevel=2)
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path} must hold keys and values, such as `codec: none`")
    return values


def _text(path: Path) -> str:
    with path.open("rb") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise ConfigError(f"{path} has more than {_MOST_BYTES} bytes: it is no configuration")
    return text.decode("utf-8")


def _refuse_doubles(path: Path, root: yaml.Node | None) -> None:
    """Raise ConfigError for a key that is given twice: YAML's reader takes the last in silence."""
    left, known = [root], set[int]()
    while left:
        node = left.pop()
        # an alias leads back to a node, perhaps to one that it is in
        if id(node) in known or not isinstance(node, yaml.CollectionNode):
            continue
        known.add(id(node))
        if isinstance(node, yaml.MappingNode):
            _refuse_double(path, [key for key, _ in node.value])
            left += [value for _, value in node.value]
        else:
            left += node.value


def _refuse_double(path: Path, keys: Sequence[yaml.Node]) -> None:
    seen: set[str] = set()
    for key in keys:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if key.value in seen:
            line = key.start_mark.line + 1
            raise ConfigError(f"{path}: line {line} gives {key.value} again: leave out one")
        seen.add(key.value)


def _override(values: dict[str, Any], key: str, value: Any) -> None:
    section, _, rest = key.partition(".")
    if not rest:
        values[section] = value
        return
    inner = values.get(section) or {}
    if isinstance(inner, str):
        inner = {"name": inner}
    if not isinstance(inner, dict):
        raise ConfigError(f"{section} must hold keys and values, not {quoted(inner)}")
    values[section] = dict(inner)
    _override(values[section], rest, value)


def _at(values: Mapping[str, Any], key: str) -> Any:
    value: Any = values
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _leaves(key: str, value: Any) -> Iterator[str]:
    """The key, or those of the mapping that is given for it."""
    if not isinstance(value, Mapping):
        yield key
        return
    for name, inner in value.items():
        yield from _leaves(f"{key}.{name}", inner)
