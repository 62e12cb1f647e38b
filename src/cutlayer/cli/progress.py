"""What a person sees of a run that goes on: a bar on a terminal, lines elsewhere; and what ends it.

Knows observers and a console.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import final

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from cutlayer.logs import EVERY_S, Heartbeat, lines_to
from cutlayer.training.records import Observer, RoundRecord
from cutlayer.units import format_seconds, roughly


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
