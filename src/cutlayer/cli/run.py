"""`cutlayer train`, `compare`, `trace` and `cache`: a run; several beside each other, trained where
they are not finished yet; one round as a Chrome trace, to open in Perfetto (ui.perfetto.dev); the
activations that a run keeps.

Also what a person sees meanwhile: a bar on a terminal, lines elsewhere, tables at the end. Knows
arguments and what is printed; runs are `jobs`', the trace's format is `rounds.result`'s.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from cutlayer.cli.progress import RunProgress, terminable
from cutlayer.cli.settings import (
    add_config,
    add_run_folder,
    add_settings,
    add_target,
    given_settings,
    refuse_output,
    refuse_settings_of,
)
from cutlayer.config.keys import commented_yaml
from cutlayer.config.read import read_config, read_written
from cutlayer.errors import ConfigError, RunError
from cutlayer.jobs.api import RUNS, compare, resume, train
from cutlayer.jobs.check import changed_config
from cutlayer.jobs.compare import wanted_runs
from cutlayer.jobs.scheme import make_scheme
from cutlayer.report.run_reader import Run, read_rounds, read_steps, trained
from cutlayer.report.tables import compare_table, round_table, summary_table, sweep_tables
from cutlayer.report.wording import counted
from cutlayer.rounds.result import chrome_trace_of
from cutlayer.rounds.schemes import SCHEMES
from cutlayer.units import format_bytes


def show_result(run: Run) -> None:
    """Print the table by round, the summary, and where everything lies."""
    console = Console(file=sys.stdout)
    console.print(round_table(run.rounds))
    console.print(summary_table(run.summary, trained(run.rounds)))
    console.print(f"report: {run.report}", markup=False, soft_wrap=True)


# `cutlayer train`: the main job.


def train_arguments(parser: argparse.ArgumentParser) -> None:
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


def run_train(arguments: argparse.Namespace) -> int:
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
    with terminable(), RunProgress(quiet=arguments.quiet) as progress:
        if arguments.resume is not None:
            run = resume(arguments.resume, changes=overrides, observer=progress)
        else:
            run = train(config, output=arguments.output or RUNS, observer=progress)
    show_result(run)
    return 0


# `cutlayer compare`: several runs beside each other.


def compare_arguments(parser: argparse.ArgumentParser) -> None:
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
        help=f"one configuration (the default job) with each of these: {', '.join(SCHEMES)}; or"
        " all",
    )
    add_target(parser)
    add_run_folder(parser, Path("comparison"))
    add_settings(parser)


def run_compare(arguments: argparse.Namespace) -> int:
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
    if compared.by_seed is not None:
        console.print(sweep_tables(compared.by_seed))
        seeds = compared.report.with_name("seeds.html")
        console.print(f"over seeds: {seeds}", markup=False, soft_wrap=True)
    console.print(f"report: {compared.report}", markup=False, soft_wrap=True)
    return 0


# `cutlayer trace`: one round of a run.


def trace_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, which round, which file."""
    # not required here, so that one line of ours says what is missing
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="a run's directory")
    parser.add_argument("--round", type=int, metavar="N", help="which round (the last)")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where the trace goes (RUN/round-N.json)"
    )


def run_trace(arguments: argparse.Namespace) -> int:
    """Write the file and print its path. Raises CutlayerError, OSError."""
    if arguments.run is None:
        raise ConfigError("trace: of which run? give its directory, such as runs/NAME-001")
    directory: Path = arguments.run
    number = _round(directory, arguments.round)
    events = list(read_steps(directory / "trace.jsonl", number))
    if not events:
        raise RunError(f"{directory / 'trace.jsonl'}: holds no step of round {number}")
    scheme = make_scheme(read_written(directory / "config.yaml"))
    path = arguments.output or directory / f"round-{number}.json"
    path.write_text(chrome_trace_of(scheme, events), encoding="utf-8")
    print(path)
    return 0


def _round(directory: Path, wanted: int | None) -> int:
    """The round that is wanted, or the last one that has finished."""
    last = read_rounds(directory / "rounds.jsonl")[-1].round
    if last == 0:
        raise RunError(f"{directory}: no round has finished yet")
    if wanted is not None and not 1 <= wanted <= last:
        raise ConfigError(f"--round {wanted}: {directory} has rounds 1 to {last}")
    return last if wanted is None else wanted


# `cutlayer cache`: the activations that a run of sft-cached keeps.


def cache_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and whose activations are deleted."""
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="a run's directory")
    parser.add_argument(
        "--forget",
        type=int,
        metavar="N",
        help="delete all that is kept of device N (0, 1, ...); if the run goes on, the device sends"
        " it again",
    )


def run_cache(arguments: argparse.Namespace) -> int:
    """Say what is kept. Raises CutlayerError."""
    from cutlayer.training.activation_cache import idle_cache  # needs torch

    if arguments.run is None:
        raise ConfigError("cache: of which run? give its directory, such as runs/NAME-001")
    with idle_cache(arguments.run) as cache:
        if arguments.forget is not None:
            count = cache.forget(arguments.forget)
            print(f"device {arguments.forget}: {counted(count, 'sample')} forgotten")
        for own in cache.held():
            size = format_bytes(own.held_bytes)
            print(f"device {own.device}: {counted(own.samples, 'sample')}, {size}")
    return 0
