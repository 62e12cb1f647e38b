"""Which settings differ between the configurations of compared runs. Knows YAML, no schema."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import yaml

from cutlayer.errors import RunError
from cutlayer.report.comparison import ComparedRun, Entry


@dataclass(frozen=True)
class Difference:
    """One dotted key and its value in each run, as YAML; `-` where a run's file has no such key."""

    key: str
    values: tuple[str, ...]


def differences(entries: Sequence[Entry]) -> tuple[Difference, ...]:
    """The keys whose values are not the same everywhere, in the order of the files.

    Raises RunError: a configuration is not YAML.
    """
    settings = [_settings(entry) for entry in entries]
    keys = dict.fromkeys(key for one in settings for key in one)
    rows = [Difference(key, tuple(one.get(key, "-") for one in settings)) for key in keys]
    return tuple(row for row in rows if len(set(row.values)) > 1)


def _settings(entry: Entry) -> Mapping[str, str]:
    text = entry.record.config_text if isinstance(entry, ComparedRun) else entry.config_text
    try:
        return dict(_flat(yaml.safe_load(text) or {}, ""))
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"the configuration of {entry.label} is not YAML: {reason}") from error


def _flat(value: object, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, _as_yaml(value)


def _as_yaml(value: object) -> str:
    # a line of its own would end with YAML's mark of a document's end
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()
