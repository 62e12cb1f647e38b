"""How far a networked run is, in a line for a log, and how long the rest of it will take.

Knows numbers and a clock; rounds and devices are told.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

from cutlayer.net.standing import Standing
from cutlayer.units import format_seconds, roughly


@final
@dataclass
class RunPace:
    """A run of `rounds`, all devices' local steps of one being `steps`; `clock`: seconds, from any
    beginning. What is left is told from how far it got since the first line."""

    rounds: int
    steps: int
    clock: Callable[[], float]
    _first: tuple[float, float] | None = field(default=None, init=False)

    def line(self, number: int, standings: Sequence[Standing], elapsed_s: float) -> str:
        """`47 %: round 3 of 5, step 7 of 80, 8 of 8 devices connected, adapters of 0; 12.3 s so
        far, about 4 min 05 s left`. `elapsed_s`: of the round."""
        done = sum(own.steps for own in standings)
        fraction = (number - 1 + min(done / self.steps, 1.0)) / self.rounds
        here = sum(own.connected for own in standings)
        sent = sum(own.done for own in standings)
        left_s = self._left_s(fraction)
        left = "" if left_s is None else f", about {roughly(left_s)} of the run left"
        return (
            f"{100 * fraction:.0f} %: round {number} of {self.rounds}, step {done} of"
            f" {self.steps}, {here} of {len(standings)} devices connected, {sent} adapters sent;"
            f" the round has taken {format_seconds(elapsed_s)}{left}"
        )

    def _left_s(self, fraction: float) -> float | None:
        now_s = self.clock()
        if self._first is None:
            self._first = fraction, now_s
            return None
        before, first_s = self._first
        if fraction <= before:
            return None
        return (now_s - first_s) * (1 - fraction) / (fraction - before)
