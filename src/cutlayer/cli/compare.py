"""`cutlayer compare`: several runs beside each other, trained where they are not finished yet.

Knows the command's arguments and what it prints; the runs are `jobs`'.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from cutlayer.cli.progress import RunProgress
from cutlayer.cli.settings import add_settings, given_settings, refuse_settings_of
from cutlayer.jobs.api import compare
from cutlayer.jobs.compare import wanted_runs
from cutlayer.report.tables import compare_table
from cutlayer.rounds.schemes import SCHEMES

_OUTPUT = Path("comparison")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to compare, with which target, and an option for every setting."""
    parser.usage = (
        "%(prog)s RUN RUN ... [--SECTION.KEY VALUE ...] [options]\n"
        "       %(prog)s [RUN.yaml] --schemes NAME,NAME,... [--SECTION.KEY VALUE ...] [options]"
    )
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN",
        help="a configuration file (is run) or the directory of a finished run (is read)",
    )
    parser.add_argument(
        "--schemes",
        metavar="NAMES",
        help=f"one configuration (the built-in job) with each of these: {', '.join(SCHEMES)}; or"
        " all",
    )
    parser.add_argument(
        "--target",
        type=float,
        metavar="SCORE",
        help="accuracy (0 to 1) or perplexity to reach (the worst of the runs' best)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=_OUTPUT,
        metavar="DIR",
        help=f"where report and runs go; finished runs there are kept ({_OUTPUT})",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, only the tables")
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run what is to be run, and write the report. Raises CutlayerError."""
    overrides = given_settings(arguments)
    refuse_settings_of(overrides, networks=True, plans=True)
    wanted = wanted_runs(arguments.runs, arguments.schemes, overrides)
    runs = {one.label: one.source for one in wanted}
    with RunProgress(quiet=arguments.quiet) as progress:
        try:
            compared = compare(
                runs, target=arguments.target, output=arguments.output, observer=progress
            )
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(
                f"{error or 'interrupted'}; run the same command again to resume all runs"
            ) from error
    console = Console(file=sys.stdout)
    console.print(compare_table(compared.comparison))
    console.print(f"report: {compared.report}", markup=False, soft_wrap=True)
    return 0
