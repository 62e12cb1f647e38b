"""How far a run is, and how long the rest of it will take, by what it has taken so far.

Knows rounds, steps and a clock; not how they are shown.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

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
    """Runs, one after another, of rounds of local steps, each round ending with an evaluation.

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
