"""Which settings a run that goes on may have otherwise than it began. Knows keys alone.

Data and model may lie elsewhere: what is in them is compared.
"""

from collections.abc import Iterable

from cutlayer.errors import ConfigError

MAY_CHANGE = (
    "training.rounds",
    "threads",
    "net.*",
    "model.name",
    "data.name",
    "channel.uplink",
    "channel.downlink",
)


def may_change(key: str) -> bool:
    """Whether the setting at a dotted key may be another when a run goes on."""
    return key in MAY_CHANGE or (key.startswith("net.") and "net.*" in MAY_CHANGE)


def check_changes(given: Iterable[str]) -> None:
    """Raises ConfigError for keys that were given with --resume and may not be."""
    refused = [key for key in given if not may_change(key)]
    if refused:
        raise ConfigError(
            f"--resume goes on with the run's own settings: leave out"
            f" {', '.join('--' + key for key in refused)}; what may be given is"
            f" {', '.join('--' + key for key in MAY_CHANGE)}"
        )
