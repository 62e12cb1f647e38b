"""Which runs a comparison is of: configuration files, finished runs, or one file and schemes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cutlayer.config.keys import unread, without
from cutlayer.config.read import config_sha256, merged_values, read_config
from cutlayer.config.schema import Config
from cutlayer.config.section import SCHEMES as PLUGINS
from cutlayer.config.section import registered
from cutlayer.errors import ConfigError, CutlayerError, nearest
from cutlayer.jobs.check import check
from cutlayer.rounds.schemes import SCHEMES


@dataclass(frozen=True)
class WantedRun:
    """One of the runs to compare, by name: a configuration to run, or a run directory to read."""

    label: str
    source: Config | Path

    def check(self) -> None:
        """Raises ConfigError, naming the run, for what can be told to be wrong without torch."""
        if isinstance(self.source, Config):
            try:
                check(self.source)
            except CutlayerError as error:
                raise ConfigError(f"{self.label}: {error}") from error


def wanted_runs(
    paths: Sequence[Path], schemes: str | None, settings: Mapping[str, str]
) -> list[WantedRun]:
    """The runs that the arguments name, each under a name of its own; configurations are read.

    Raises ConfigError: fewer than two, the same twice, or settings for finished runs.
    """
    if schemes is not None:
        wanted = _one_with_schemes(paths, schemes, settings)
    else:
        if settings and paths and all(path.is_dir() for path in paths):
            raise ConfigError(
                f"--{next(iter(settings))}: finished runs are read, not run; leave out settings"
            )
        labels = _labels(paths)
        wanted = [
            WantedRun(label, path if path.is_dir() else read_config(path, settings))
            for label, path in zip(labels, paths, strict=True)
        ]
    if len(wanted) < 2:
        raise ConfigError(
            "compare: give two runs or more, such as `cutlayer compare a.yaml b.yaml` or"
            " `cutlayer compare --schemes sft,splitlora`"
        )
    _refuse_the_same(wanted)
    return wanted


def _one_with_schemes(
    paths: Sequence[Path], schemes: str, settings: Mapping[str, str]
) -> list[WantedRun]:
    if len(paths) > 1 or any(path.is_dir() for path in paths):
        raise ConfigError(
            f"--schemes {schemes}: give one configuration file, or none for the built-in job"
        )
    if "scheme" in settings or "scheme.name" in settings:
        raise ConfigError("--scheme and --schemes: give one of them")
    names = [name for name in re.split(r"[,\s]+", schemes) if name]
    names = list(SCHEMES) if names == ["all"] else names
    for name in names:
        if name not in SCHEMES and ":" not in name and name not in registered(PLUGINS):
            raise ConfigError(f"unknown scheme {name}; {nearest(name, list(SCHEMES))}")
    path = paths[0] if paths else None
    return _each_scheme(path, settings, names)


def _each_scheme(
    path: Path | None, settings: Mapping[str, str], names: Sequence[str]
) -> list[WantedRun]:
    """One configuration with each scheme, which leaves out what that scheme does not read; what
    none of them reads is refused."""
    values = [merged_values(path, {**settings, "scheme": name}) for name in names]
    configs = [Config.model_validate(each) for each in values]
    ignored = [{each.key: each for each in unread(config, settings)} for config in configs]
    for key, each in (ignored[0] if ignored else {}).items():
        if all(key in other for other in ignored):
            raise ConfigError(str(each))
    return [
        WantedRun(name, without(config, own))
        for name, config, own in zip(names, configs, ignored, strict=True)
    ]


def _labels(paths: Sequence[Path]) -> list[str]:
    """The ends of the paths, as long as it takes to tell them apart."""
    whole = [path.resolve() for path in paths]
    plain = [path if path.is_dir() else path.with_suffix("") for path in whole]
    deepest = max((len(path.parts) for path in plain), default=1)
    for depth in range(1, deepest + 1):
        labels = ["/".join(path.parts[-depth:]) for path in plain]
        if len(set(labels)) == len(labels):
            return labels
    # a.yaml beside a.yml, or the same path twice
    return [str(path) for path in paths]


def _refuse_the_same(wanted: Sequence[WantedRun]) -> None:
    seen: dict[str, str] = {}
    for one in wanted:
        source = one.source
        key = str(source.resolve()) if isinstance(source, Path) else config_sha256(source)
        if key in seen:
            raise ConfigError(f"{seen[key]} and {one.label} are the same run: leave out one")
        seen[key] = one.label
