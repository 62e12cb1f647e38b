"""The runs of a configuration. Knows run directories by the configuration they hold."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from cutlayer.config.full_paths import with_full_paths
from cutlayer.config.read import read_written
from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError


def newest_run(config: Config, output: Path) -> Path | None:
    """The directory under `output` of the run of this very configuration that was begun last,
    whether it has ended or not; None if there is none."""
    return next(runs_of(config, output.iterdir() if output.is_dir() else ()), None)


def runs_of(config: Config, directories: Iterable[Path]) -> Iterator[Path]:
    """Those of these directories that hold a run of this very configuration, begun last first."""
    config = with_full_paths(config)
    written = [path for folder in directories if (path := folder / "config.yaml").is_file()]
    for path in sorted(written, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if _holds(path, config):
            yield path.parent


def _holds(path: Path, config: Config) -> bool:
    try:
        return read_written(path) == config
    except ConfigError:  # of another version, or cut short: nothing that we could go on with
        return False
