"""The critical path through a device's overlapping micro-batches: what let each step begin.

Knows no phase: legs are numbers.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True)
class Piece:
    """A part of the path: at a leg, or waiting before it."""

    leg: int
    waits: bool


def longest_path(
    spans_s: Float64[np.ndarray, "repeat leg 3"],
    micro_batches: int,
    own_stations: Sequence[int | None],
) -> Iterator[tuple[Piece, float]]:
    """Pieces of the path and their seconds, last local step first; they sum to the local steps'.

    `spans_s` holds arrival, start and end of each leg of each micro-batch, local step by local
    step; `own_stations` numbers the device's own stations by leg, None for those of others.
    """
    for first in range(len(spans_s) - micro_batches, -1, -micro_batches):
        rows = spans_s[first : first + micro_batches].tolist()
        yield from _LocalStep(rows, own_stations).walk()


class _LocalStep:
    """The spans of one local step, and which of them could have held up which."""

    def __init__(
        self, rows: Sequence[Sequence[Sequence[float]]], own_stations: Sequence[int | None]
    ) -> None:
        self._rows = rows
        self._own = own_stations
        self._last = len(own_stations) - 1
        self._seen: set[tuple[int, int]] = set()
        self._ended: dict[tuple[int, float], list[tuple[int, int]]] = defaultdict(list)
        for row, legs in enumerate(rows):
            for leg, (_, _, end_s) in enumerate(legs):
                station = own_stations[leg]
                if station is not None:
                    self._ended[station, end_s].append((row, leg))

    def walk(self) -> Iterator[tuple[Piece, float]]:
        """From the last micro-batch to end back to the start of the local step."""
        here: tuple[int, int] | None = max(
            ((row, self._last) for row in range(len(self._rows))),
            key=lambda place: self._rows[place[0]][self._last][2],
        )
        while here is not None:
            self._seen.add(here)
            row, leg = here
            ready_s, start_s, end_s = self._rows[row][leg]
            yield Piece(leg, waits=False), end_s - start_s
            before = (row, leg - 1) if leg else None
            if start_s > ready_s:
                held = self._held_up_by(leg, start_s)
                if held is None:
                    yield Piece(leg, waits=True), start_s - ready_s
                before = held or before
            here = before

    def _held_up_by(self, leg: int, start_s: float) -> tuple[int, int] | None:
        """The step of this device that ended just then and made room; each is walked once, so
        steps of no length cannot lead in a circle.
        """
        station = self._own[leg]
        found = [] if station is None else self._ended.get((station, start_s), [])
        if leg == 0 and not found:
            found = [
                (row, self._last)
                for row, legs in enumerate(self._rows)
                if legs[self._last][2] == start_s
            ]
        return next((place for place in found if place not in self._seen), None)
