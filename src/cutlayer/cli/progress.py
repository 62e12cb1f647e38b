"""What a person sees of a run: a bar on a terminal, lines elsewhere, tables at the end."""

import logging
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import final

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from cutlayer.cli.pace import Pace
from cutlayer.logs import lines_to
from cutlayer.report.run_reader import read_run
from cutlayer.report.tables import round_table, summary_table
from cutlayer.report.wording import score_text
from cutlayer.train.heartbeat import EVERY_S, Heartbeat
from cutlayer.train.records import RoundRecord, TrainedRound
from cutlayer.train.run import Observer
from cutlayer.units import format_bytes, format_seconds

_LOG = logging.getLogger(__name__)


@final
class Progress(Observer):
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

    def __enter__(self) -> "Progress":
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
        """Show the round's result."""
        self._pace.round_done()
        self._show()
        _LOG.info(round_line(record, self._pace.rounds))

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


def round_line(record: RoundRecord, rounds: int) -> str:
    """`round 1 of 5: accuracy 41.2 %, loss 1.71; up 4.67 MiB, down 5.51 MiB; simulated round 855 ms
    (wall-clock 17.8 s)`."""
    score = f"{record.score.measure} {score_text(record.score)}"
    wall = f"(wall-clock {format_seconds(record.wall_s)})"
    if not isinstance(record, TrainedRound):
        return f"before training: {score} {wall}"
    return (
        f"round {record.round} of {rounds}: {score}, loss {record.train_loss:.2f};"
        f" up {format_bytes(record.uplink_bytes)}, down {format_bytes(record.downlink_bytes)};"
        f" simulated round {format_seconds(record.delay_s)} {wall}"
    )


def show_result(directory: Path) -> None:
    """Print the table by round, the summary, and where everything lies."""
    console = Console(file=sys.stdout)
    run = read_run(directory)
    console.print(round_table(run.rounds))
    console.print(summary_table(run.summary, run.trained))
    console.print(f"report: {directory / 'report.html'}", markup=False, soft_wrap=True)
