"""`cutlayer sweep`: a grid of settings over seeds, trained where it is not finished yet, as one
table and a page.

Knows arguments and what is printed.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from cutlayer.cli.progress import RunProgress, terminable
from cutlayer.cli.settings import (
    add_baseline,
    add_run_folder,
    add_settings,
    add_target,
    given_settings,
    refuse_settings_of,
    whole_number,
)
from cutlayer.errors import ConfigError, quoted
from cutlayer.jobs.sweep import sweep
from cutlayer.report.tables import sweep_tables


def sweep_arguments(parser: argparse.ArgumentParser) -> None:
    """The configuration that is varied, the grid, and an option for every setting."""
    parser.usage = (
        "%(prog)s [CONFIG.yaml] --grid KEY=VALUE,VALUE ... [--seeds N] [--workers N]"
        " [--SECTION.KEY VALUE ...] [options]\n"
        "       %(prog)s SWEEP.yaml [options]"
    )
    parser.add_argument(
        "config",
        nargs="?",
        type=Path,
        metavar="CONFIG.yaml",
        help="what is varied (the default job), or a file with a grid and seeds",
    )
    parser.add_argument(
        "--grid",
        nargs="+",
        default=[],
        metavar="KEY=VALUES",
        help="settings and their values: scheme=sft,fl-lora codec.target_bits_up=0.3,0.7",
    )
    parser.add_argument(
        "--seeds",
        type=_seeds,
        metavar="N",
        help="how many seeds, from 0 on; or which, with commas between: 0,3,7 (3)",
    )
    parser.add_argument(
        "--workers",
        type=whole_number,
        metavar="N",
        help="how many runs at a time, in processes that share the cores, or of --engine ray (1)",
    )
    add_target(parser)
    add_baseline(parser)
    add_run_folder(parser, Path("sweep"))
    add_settings(parser)


def run_sweep(arguments: argparse.Namespace) -> int:
    """Train what is to be trained, and write tables and page. Raises CutlayerError."""
    overrides = given_settings(arguments)
    refuse_settings_of(overrides, networks=True, plans=True)
    with terminable(), RunProgress(quiet=arguments.quiet) as progress:
        try:
            swept = sweep(
                arguments.config,
                _grid(arguments.grid),
                seeds=arguments.seeds,
                settings=overrides,
                workers=arguments.workers,
                target=arguments.target,
                baseline=arguments.baseline,
                output=arguments.output,
                observer=progress,
            )
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(
                "interrupted; run the same command again to resume all runs"
            ) from error
    console = Console()
    console.print(sweep_tables(swept.sweep))
    console.print(f"report: {swept.report}", markup=False, soft_wrap=True)
    return 1 if swept.failed else 0


def _seeds(text: str) -> int | list[int]:
    if "," in text:
        try:
            return [int(part) for part in text.split(",") if part]
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{quoted(text)} is neither a number of seeds nor seeds with commas between"
            ) from None
    return whole_number(text)


def _grid(given: Sequence[str]) -> dict[str, list[str]] | None:
    """None: it is in the file, or nowhere."""
    axes = [_axis(text) for text in given]
    for key, _ in axes:
        if [name for name, _ in axes].count(key) > 1:
            raise ConfigError(f"--grid {key}: given twice: give all values of it at once")
    return dict(axes) or None


def _axis(text: str) -> tuple[str, list[str]]:
    """A key of the grid and its values; commas in brackets are no commas."""
    key, equals, values = text.partition("=")
    if not equals or not re.fullmatch(r"[a-z][a-z0-9_.-]*", key):
        raise ConfigError(
            f"--grid {text}: give KEY=VALUE,VALUE, such as codec.target_bits_up=0.3,0.7"
        )
    return key.replace("-", "_"), list(_parts(values))


def _parts(text: str) -> Iterator[str]:
    depth, begin = 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth:
            yield text[begin:place].strip()
            begin = place + 1
    yield text[begin:].strip()
