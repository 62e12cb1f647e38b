"""The newest run of a configuration. Knows run directories by the configuration they hold."""

from pathlib import Path

from cutlayer.config.full_paths import with_full_paths
from cutlayer.config.read import read_written
from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError


def newest_run(config: Config, output: Path) -> Path | None:
    """The directory under `output` of the run of this very configuration that was begun last,
    whether it has ended or not; None if there is none."""
    config = with_full_paths(config)
    begun = sorted(output.glob("*/config.yaml"), key=lambda path: path.stat().st_mtime_ns)
    return next((path.parent for path in reversed(begun) if _holds(path, config)), None)


def _holds(path: Path, config: Config) -> bool:
    try:
        return read_written(path) == config
    except ConfigError:  # of another version, or cut short: nothing that we could go on with
        return False
