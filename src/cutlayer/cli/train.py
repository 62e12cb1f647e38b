"""`cutlayer train`: the main job."""

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from cutlayer.cli.options import loading
from cutlayer.cli.settings import (
    RUNS,
    add_settings,
    given_settings,
    refuse_output,
    refuse_settings_of,
)
from cutlayer.config.help import commented_yaml
from cutlayer.config.read import read_config, read_written
from cutlayer.errors import ConfigError
from cutlayer.jobs.check import check, check_changes, check_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The configuration file, what to do with it, and an option for every setting."""
    parser.usage = "%(prog)s [CONFIG.yaml] [--SECTION.KEY VALUE ...] [options]"
    parser.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG.yaml", help="default: the built-in job"
    )
    parser.add_argument("--output", type=Path, help=f"where run directories go ({RUNS})")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="DIR",
        help="go on with the run in DIR; --training.rounds beside it trains longer",
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
        check_changes(overrides)
        config = read_written(arguments.resume / "config.yaml", overrides)
    else:
        refuse_settings_of(overrides, networks=True, plans=True)
        config = read_config(arguments.config, overrides)
    if arguments.print_config:
        print(commented_yaml(config), end="")
        return 0
    output = arguments.output or RUNS
    if arguments.resume is None:
        check_folder(output)
        check(config)
    # torch and transformers take seconds to import: not for --help or --print-config
    with loading("train", "train"):
        from cutlayer.cli.progress import RunProgress, show_result
        from cutlayer.jobs.train import resume, start
    with _terminable(), RunProgress(quiet=arguments.quiet) as progress:
        if arguments.resume is not None:
            directory = resume(arguments.resume, progress, overrides)
        else:
            directory = start(config, output, progress)
    show_result(directory.path)
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
