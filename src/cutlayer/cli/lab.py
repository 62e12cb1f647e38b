"""`cutlayer lab`: a run between real processes over shaped links, beside its prediction."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from cutlayer.cli.settings import add_config, add_settings, given_settings, refuse_settings_of
from cutlayer.config.read import read_config
from cutlayer.jobs.check import check, check_folder
from cutlayer.logs import loading

# the built-in job as a lab: a round that calibrates, and five that are compared
_BUILT_IN = {"devices.count": "4", "training.rounds": "6"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The configuration file, where the run goes, and an option for every setting."""
    add_config(parser, "the built-in job with 4 devices and 6 rounds")
    parser.add_argument(
        "--output", type=Path, default=Path("runs"), help="where run directories go (runs)"
    )
    parser.add_argument(
        "--loopback",
        action="store_true",
        help="no namespaces: on loopback, where devices and server pace themselves",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, only the table")
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run, compare, print, write; 0 however far off. Raises CutlayerError."""
    built_in = _BUILT_IN if arguments.config is None else {}
    overrides = given_settings(arguments)
    refuse_settings_of(overrides, plans=True)
    config = read_config(arguments.config, built_in | overrides)
    check_folder(arguments.output)
    check(config)
    # torch and matplotlib take seconds to import: not for --help or a mistake
    with loading("`cutlayer lab`", "train,net"):
        from cutlayer.lab.lab import comparison_table, comparison_verdict, run_lab, write_comparison
    ended = run_lab(config, arguments.output, on_loopback=arguments.loopback)
    console = Console(file=sys.stdout)
    console.print(comparison_table(ended.comparison))
    console.print(ended.where, markup=False, soft_wrap=True)
    console.print(comparison_verdict(ended.comparison), markup=False)
    for path in write_comparison(ended.comparison, ended.directory):
        console.print(str(path), markup=False, soft_wrap=True)
    return 0
