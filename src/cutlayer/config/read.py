"""YAML and overrides into a `Config`, strictly; a `Config` into YAML.

The command line takes the same road as the file: both end as one mapping that is checked once.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError
from cutlayer.words import nearest


def read_config(path: Path | None, overrides: Mapping[str, str] | None = None) -> Config:
    """The configuration in `path` (None: the built-in default) with overrides on top.

    Overrides go by dotted key (`codec.keep_ratio`), values are YAML. A section that has a `name`
    may be given as that name alone (`codec: none`). Raises ConfigError for a file that cannot be
    read, an unknown key (naming the nearest) or a value out of bounds.
    """
    values: dict[str, Any] = {} if path is None else _load(path)
    for key, text in (overrides or {}).items():
        _override(values, key, _scalar(key, text))
    return read_values(values)


def read_values(values: Mapping[str, Any]) -> Config:
    """The configuration of a nested mapping, as a file holds it. Raises ConfigError."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(_first(error.errors()))) from error


def config_yaml(config: Config) -> str:
    """The configuration as YAML that reads back to the same values."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def flat_values(config: Config) -> dict[str, Any]:
    """Every value as JSON holds it, by dotted key; of a section that is not given, None."""
    return dict(_flat(config.model_dump(mode="json"), ""))


def config_sha256(config: Config) -> str:
    """A fingerprint of every value."""
    return hashlib.sha256(config_yaml(config).encode()).hexdigest()


def keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every dotted key with its description and default."""
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from keys(type(field.default), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.description or "", field.default


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_doubles(path, yaml.compose(text, Loader=yaml.SafeLoader))
        values = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not YAML: {reason}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path} must hold keys and values, such as `codec: none`")
    return values


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
        raise ConfigError(f"{section} must hold keys and values, not {inner!r}")
    values[section] = dict(inner)
    _override(values[section], rest, value)


def _scalar(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}: cannot read the value {text!r}") from error


def _first(errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """The first mistake; where a value may be one thing or another, what it came nearest to."""
    where = _where(errors[0])
    return max((e for e in errors if _where(e) == where), key=lambda error: len(error["loc"]))


def _where(error: ErrorDetails) -> str:
    return ".".join(part for part in error["loc"] if isinstance(part, str) and part in _words())


def _explain(error: ErrorDetails) -> str:
    """One line for what is wrong."""
    path = [part for part in error["loc"] if isinstance(part, str)]
    where = _where(error)
    if error["type"] == "extra_forbidden":
        section = ".".join(path[:-1])
        known = [key for key, _, _ in keys()]
        siblings = [key.split(".")[len(path) - 1] for key in known if _inside(key, section)]
        hint = nearest(path[-1], list(dict.fromkeys(siblings)))
        return f"unknown configuration key {'.'.join(path)}; {hint}"
    if error["type"] == "model_type":
        return f"{where} must hold keys and values, not {error['input']!r}"
    if error["type"] == "tuple_type":
        return f"{where} must be a list, such as [a, b], not {error['input']!r}"
    return f"{where}: {error['msg'][0].lower()}{error['msg'][1:]}, not {error['input']!r}"


def _inside(key: str, section: str) -> bool:
    return not section or key.startswith(f"{section}.")


def _words() -> set[str]:
    return {word for key, _, _ in keys() for word in key.split(".")}
