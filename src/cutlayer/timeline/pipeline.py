"""A device with several micro-batches under way: what it computes next, and when a new one starts.

It is the station of its own micro-batches: one computation at a time, a waiting backward before a
new forward. A local step ends when all its micro-batches have been through; the next needs it.
"""

from array import array
from collections import deque
from collections.abc import Sequence
from heapq import heappush
from typing import final

from cutlayer.timeline.clock import Action, Clock, Route, Station, Token


@final
class Pipeline(Station):
    """The computing unit of one device and the gate before it.

    `stations` are those of a micro-batch's legs, None where the device computes; `seconds` one row
    a micro-batch, local step by local step. `spans` grows by arrival, start and end [s] of each leg
    of each micro-batch, in their order.
    """

    def __init__(
        self,
        clock: Clock,
        rank: int,
        stations: Sequence[Station | None],
        seconds: Sequence[Sequence[float]],
        micro_batches: int,
        in_flight: int,
        then: Action,
    ) -> None:
        self._clock = clock
        self._first_rank = rank
        self._own_rank = clock.join(self._computed)
        self._stations = [self if station is None else station for station in stations]
        self._gaps_s = [0.0] * (len(stations) + 1)
        self._seconds = seconds
        self._micro_batches = micro_batches
        self._in_flight = in_flight
        self._then = then
        self._new: deque[tuple[Token, float]] = deque()
        self._back: deque[tuple[Token, float]] = deque()
        self._busy: tuple[Token, float] | None = None
        self._admitted = 0
        self._tokens: list[Token] = []
        self._open = 0
        self._opened = 0
        self.spans = array("d")

    def begin(self, now_s: float) -> None:
        """Start the next local step, or go on to what follows the last one."""
        for token in self._tokens:
            self.spans.extend(token.spans)
        self._tokens = []
        if self._opened == len(self._seconds):
            self._then(now_s)
            return
        for micro_batch in range(self._micro_batches):
            seconds = self._seconds[self._opened + micro_batch]
            route = Route(self._stations, seconds, self._gaps_s)
            token = Token(self._clock, self._first_rank + micro_batch, route, self._finished)
            self._tokens.append(token)
            token.begin(now_s)
        self._open = self._micro_batches
        self._opened += self._micro_batches

    def arrive(self, now_s: float, token: Token, seconds: float) -> None:
        (self._new if token.is_new else self._back).append((token, seconds))
        self._next(now_s)

    def _next(self, now_s: float) -> None:
        if self._busy is not None:
            return
        if self._back:
            token, seconds = self._back.popleft()
        elif self._new and self._admitted < self._in_flight:
            token, seconds = self._new.popleft()
            self._admitted += 1
        else:
            return
        self._busy = (token, now_s)
        heappush(self._clock.heap, (now_s + seconds, self._own_rank))

    def _computed(self, now_s: float) -> None:
        assert self._busy is not None
        (token, start_s), self._busy = self._busy, None
        token.leave(start_s, now_s)
        self._next(now_s)

    def _finished(self, now_s: float) -> None:
        self._admitted -= 1
        self._open -= 1
        if self._open:
            self._next(now_s)
        else:
            self.begin(now_s)
