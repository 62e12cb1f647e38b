"""`cutlayer train`: the main job."""

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from cutlayer.cli.progress import RunProgress, show_result
from cutlayer.cli.settings import (
    add_config,
    add_settings,
    given_settings,
    refuse_output,
    refuse_settings_of,
)
from cutlayer.config.keys import commented_yaml
from cutlayer.config.read import read_config
from cutlayer.errors import ConfigError
from cutlayer.jobs.api import RUNS, resume, train
from cutlayer.jobs.check import changed_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The configuration file, what to do with it, and an option for every setting."""
    add_config(parser)
    parser.add_argument("--output", type=Path, help=f"where run directories go ({RUNS})")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="DIR",
        help="resume the run in DIR; with --training.rounds it trains longer",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the configuration as read, and stop"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, only the tables")
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train, or print the configuration."""
    overrides = given_settings(arguments)
    if arguments.resume is not None:
        if arguments.config is not None:
            raise ConfigError(
                f"--resume takes the configuration of its run directory: leave out"
                f" {arguments.config}"
            )
        refuse_output(arguments.output)
        config = changed_config(arguments.resume, overrides)
    else:
        refuse_settings_of(overrides, networks=True, plans=True)
        config = read_config(arguments.config, overrides)
    if arguments.print_config:
        print(commented_yaml(config), end="")
        return 0
    with _terminable(), RunProgress(quiet=arguments.quiet) as progress:
        if arguments.resume is not None:
            run = resume(arguments.resume, changes=overrides, observer=progress)
        else:
            run = train(config, output=arguments.output or RUNS, observer=progress)
    show_result(run)
    return 0


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does, which says how it goes on."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
