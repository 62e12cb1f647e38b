"""The settings of a run as command-line options: one `--SECTION.KEY VALUE` for each."""

import argparse

from cutlayer.config.read import keys

_PREFIX = "override."


def add_settings(parser: argparse.ArgumentParser) -> None:
    """An option for every setting, and for every section that may be given as a name alone."""
    settings = parser.add_argument_group(
        "settings", "each overrides the configuration file; values are YAML"
    )
    for section in ("scheme", "model", "data", "partition", "optimizer", "codec", "planner"):
        settings.add_argument(f"--{section}", dest=_PREFIX + section, help=argparse.SUPPRESS)
    for key, description, default in keys():
        shown = "null" if default is None else default
        settings.add_argument(
            f"--{key.replace('_', '-')}",
            dest=_PREFIX + key,
            metavar="VALUE",
            help=f"{description} ({shown})".replace("%", "%%"),
        )


def given_settings(arguments: argparse.Namespace) -> dict[str, str]:
    """The settings that were given, by dotted key, as `read_config` takes them."""
    return {
        name.removeprefix(_PREFIX): value
        for name, value in vars(arguments).items()
        if name.startswith(_PREFIX) and value is not None
    }
