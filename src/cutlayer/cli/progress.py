"""What a person sees of a run: bars on a terminal, a line a round elsewhere, tables at the end."""

import sys
from pathlib import Path
from types import TracebackType
from typing import final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from cutlayer.report.run_reader import read_run
from cutlayer.report.tables import round_table, summary_table
from cutlayer.train.record import Record
from cutlayer.train.run import Observer
from cutlayer.units import format_bytes, format_seconds


@final
class Progress(Observer):
    """The observer of a run on a console. A context manager: bars end with it."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("local steps"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bars.add_task("getting ready", total=None)

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        """Show a line at once."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def step_done(self, round_number: int, done: int, total: int) -> None:
        """Move the bar of the round."""
        description = f"round {round_number}"
        self._bars.update(self._task, description=description, completed=done, total=total)

    def round_done(self, record: Record) -> None:
        """Show the round's result."""
        name = "perplexity" if "perplexity" in record else "accuracy"
        line = f"round {record['round']:>3}  {name} {record[name]:.3f}"
        if record["round"]:
            line += (
                f"  loss {record['train_loss']:.3f}"
                f"  up {format_bytes(record['uplink_bytes'])}"
                f"  down {format_bytes(record['downlink_bytes'])}"
                f"  takes {format_seconds(record['delay_s'])} on the link and the devices"
            )
        self.say(f"{line}  (computed here in {format_seconds(record['wall_s'])})")


def show_result(directory: Path) -> None:
    """Print the table by round, the summary, and where everything lies."""
    console = Console(file=sys.stdout)
    run = read_run(directory)
    console.print(round_table(run.rounds))
    if run.summary is not None:
        console.print(summary_table(run.summary))
    console.print(f"report: {directory / 'report.html'}", markup=False, soft_wrap=True)
