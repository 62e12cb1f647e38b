"""`cutlayer config`: whether a configuration is right, and the schema of all of them."""

import argparse
import json
from pathlib import Path

from cutlayer.cli.settings import add_settings, given_settings
from cutlayer.config.keys import json_schema
from cutlayer.config.read import config_sha256, read_config
from cutlayer.errors import ConfigError
from cutlayer.jobs.check import check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments after `cutlayer config`."""
    parser.usage = "%(prog)s check CONFIG.yaml [--SECTION.KEY VALUE ...]\n       %(prog)s schema"
    parser.add_argument(
        "action",
        nargs="?",
        choices=("check", "schema"),
        help="check: read a file strictly, without training; schema: print a JSON schema, by which"
        " an editor completes and checks configuration files",
    )
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG.yaml", help="what to check")
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check or print. Raises CutlayerError for a configuration that no run could have."""
    overrides = given_settings(arguments)
    if arguments.action is None:
        raise ConfigError("config: what of it? check or schema; see `--help`")
    if arguments.action == "schema":
        if overrides or arguments.config is not None:
            raise ConfigError("config schema is of all configurations: leave out what follows it")
        print(json.dumps(json_schema(), indent=1))
        return 0
    if arguments.config is None:
        raise ConfigError("config check: which file? give its name")
    config = read_config(arguments.config, overrides)
    check(config)
    print(
        f"{arguments.config} is valid: {config.scheme.name} of {config.model.name} on"
        f" {config.data.name}, configuration {config_sha256(config)[:16]}"
    )
    return 0
