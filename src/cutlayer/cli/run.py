"""`cutlayer train`, `compare`, `trace` and `cache`: a run; several beside each other, trained where
they are not finished yet; one round as a Chrome trace, to open in Perfetto (ui.perfetto.dev); the
activations that a run keeps.

Also what a person sees meanwhile: a bar on a terminal, lines elsewhere, tables at the end. Knows
arguments and what is printed; runs are `jobs`', the trace's format is `rounds.result`'s.
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import final

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from cutlayer.cli.settings import (
    add_config,
    add_settings,
    given_settings,
    refuse_output,
    refuse_settings_of,
)
from cutlayer.config.keys import commented_yaml
from cutlayer.config.read import read_config, read_written
from cutlayer.errors import ConfigError, RunError
from cutlayer.jobs.api import RUNS, compare, resume, train
from cutlayer.jobs.build import make_scheme
from cutlayer.jobs.check import changed_config
from cutlayer.jobs.compare import wanted_runs
from cutlayer.logs import EVERY_S, Heartbeat, lines_to
from cutlayer.report.run_reader import Run, read_rounds, read_steps, trained
from cutlayer.report.tables import compare_table, round_table, summary_table, sweep_tables
from cutlayer.report.wording import counted
from cutlayer.rounds.result import chrome_trace_of
from cutlayer.rounds.schemes import SCHEMES
from cutlayer.training.records import Observer, RoundRecord
from cutlayer.units import format_bytes, format_seconds, roughly

# What a person sees of a run.


@dataclass
class _Spent:
    """What so many of one kind took together [s]."""

    seconds: float = 0.0
    count: int = 0

    @property
    def mean_s(self) -> float:
        return self.seconds / self.count if self.count else 0.0


@final
class Pace:
    """How far a run is, and how long the rest of it will take, by what it has taken so far.

    Of runs, one after another, of rounds of local steps, each round ending with an evaluation.
    `clock`: seconds, from any beginning.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start_s = self._last_s = clock()
        self._number, self._rounds = 0, 0
        self._done, self._total = 0, 0
        self._over = True
        self._steps, self._evaluations = _Spent(), _Spent()

    def round_begins(self, number: int, rounds: int) -> None:
        """Round `number` of `rounds` begins; 0: the evaluation before the first."""
        if self._over:
            self._steps, self._evaluations, self._total = _Spent(), _Spent(), 0
        self._number, self._rounds, self._done, self._over = number, rounds, 0, False
        self._last_s = self._clock()

    def step_done(self, done: int, total: int) -> None:
        """`done` of `total` local steps of the round have ended."""
        self._spend(self._steps, done - self._done)
        self._done, self._total = done, total

    def round_done(self) -> None:
        """The round, or what came before the first, has been evaluated."""
        self._spend(self._evaluations, 1)
        self._over = self._number == self._rounds

    @property
    def rounds(self) -> int:
        """Those of the run; 0: none has begun."""
        return self._rounds

    @property
    def fraction(self) -> float:
        """The part of the run's steps that is done, 0 to 1."""
        if self._over:
            return float(self._rounds > 0)
        if not self._number:
            return 0.0
        within = self._done / self._total if self._total else 0.0
        return (self._number - 1 + within) / self._rounds

    @property
    def left_s(self) -> float | None:
        """How long the rest of the run will take [s]; None: nobody knows yet."""
        if self._over or not self._steps.count:
            return None
        rounds = self._rounds - self._number + 1
        steps = self._total * rounds - self._done
        return steps * self._steps.mean_s + rounds * self._evaluations.mean_s

    @property
    def stage(self) -> str:
        """`round 3 of 5, step 7 of 80`."""
        if self._over:
            return "writing results" if self._rounds else "getting ready"
        if not self._number:
            return "evaluating before training"
        of = f"round {self._number} of {self._rounds}"
        if self._total and self._done == self._total:
            return f"{of}, evaluating"
        return f"{of}, step {self._done} of {self._total}" if self._total else of

    @property
    def left(self) -> str:
        """`about 4 min 05 s left`, or nothing while nobody knows."""
        return "" if self.left_s is None else f"about {roughly(self.left_s)} left"

    @property
    def line(self) -> str:
        """`47 %: round 3 of 5, step 7 of 80; 5 min 02 s so far, about 5 min 40 s left`."""
        part = "" if self._over else f"{100 * self.fraction:.0f} %: "
        gone = f"{format_seconds(self._clock() - self._start_s)} so far"
        return f"{part}{self.stage}; {', '.join(filter(None, (gone, self.left)))}"

    def _spend(self, on: _Spent, count: int) -> None:
        now_s = self._clock()
        on.seconds += now_s - self._last_s
        on.count += count
        self._last_s = now_s


@final
class RunProgress(Observer):
    """The observer of a run on a console. A context manager: the bar, or the lines that stand in
    for it every `every_s` seconds where nobody sees one, end with it."""

    def __init__(
        self, quiet: bool = False, console: Console | None = None, every_s: float = EVERY_S
    ) -> None:
        self._console = console or Console(stderr=True, quiet=quiet)
        self._pace = Pace(time.monotonic)
        seen = self._console.is_terminal and not quiet
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=self._console,
            transient=True,
            expand=True,
            disable=not seen,
        )
        self._task = self._bars.add_task(self._pace.stage, total=None, left="")
        self._context = ExitStack()
        self._lines = None if seen or quiet else Heartbeat(self._line, every_s)

    def __enter__(self) -> "RunProgress":
        self._context.enter_context(lines_to(self._print, quiet=self._console.quiet))
        self._context.enter_context(self._bars if self._lines is None else self._lines)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._context.close()

    def _print(self, line: str) -> None:
        """Show a line at once; however quiet: it is a warning then."""
        if self._console.quiet:
            print(line, file=sys.stderr)
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def round_begins(self, number: int, rounds: int) -> None:
        """Move the bar."""
        self._pace.round_begins(number, rounds)
        self._show()

    def step_done(self, round_number: int, done: int, total: int) -> None:
        """Move the bar."""
        self._pace.step_done(done, total)
        self._show()

    def round_done(self, record: RoundRecord) -> None:
        """Move the bar; what came of the round is a line that is logged."""
        self._pace.round_done()
        self._show()

    def _show(self) -> None:
        pace = self._pace
        self._bars.update(
            self._task,
            description=pace.stage,
            completed=pace.fraction,
            total=1.0 if pace.rounds else None,
            left=pace.left,
        )

    def _line(self) -> str:
        return self._pace.line


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


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does, which says how it goes on."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# `cutlayer compare`: several runs beside each other.


_OUTPUT = Path("comparison")


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
