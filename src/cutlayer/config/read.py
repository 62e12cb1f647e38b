"""YAML and overrides into a `Config`, strictly; a `Config` into YAML.

The command line takes the same road as the file: both end as one mapping that is checked once.
"""

import hashlib
from collections.abc import Iterator, Mapping
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
        raise ConfigError(_explain(error.errors()[0])) from error


def config_yaml(config: Config) -> str:
    """The configuration as YAML that reads back to the same values."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


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


def _load(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
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


def _explain(error: ErrorDetails) -> str:
    """One line for the first thing that is wrong."""
    path = [part for part in error["loc"] if isinstance(part, str)]
    where = ".".join(part for part in path if part in _words())
    if error["type"] == "extra_forbidden":
        section = ".".join(path[:-1])
        known = [key for key, _, _ in keys()]
        siblings = [key.split(".")[len(path) - 1] for key in known if _inside(key, section)]
        hint = nearest(path[-1], list(dict.fromkeys(siblings)))
        return f"unknown configuration key {'.'.join(path)}; {hint}"
    return f"{where}: {error['msg'][0].lower()}{error['msg'][1:]}, not {error['input']!r}"


def _inside(key: str, section: str) -> bool:
    return not section or key.startswith(f"{section}.")


def _words() -> set[str]:
    return {word for key, _, _ in keys() for word in key.split(".")}
