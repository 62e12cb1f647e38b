"""The virtual clock, and the tokens that go from station to station on it.

Between two stations that it may have to share, a token spends a known time, so all private steps
between them are one gap: the heap holds one entry a token, however many steps a round has.
"""

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import final

Action = Callable[[float], None]


def nothing(now_s: float) -> None:
    """What follows the last token of a device."""


@final
class Clock:
    """What happens next. At the same second tokens move first, those of lower rank before others;
    stations act after them, so that whoever comes at that second is there.

    `heap` holds (time [s], rank) of whoever acts then. It is open to all who have a rank: with a
    million visits a round, a call is what a visit costs.
    """

    def __init__(self, tokens: int) -> None:
        self.heap: list[tuple[float, int]] = []
        self._actions: list[Action] = [nothing] * tokens

    def call(self, rank: int, action: Action) -> None:
        """From now on this is what the token of that rank, below the number of `tokens`, does."""
        self._actions[rank] = action

    def join(self, action: Action) -> int:
        """Give a station a rank."""
        self._actions.append(action)
        return len(self._actions) - 1

    def run(self) -> None:
        """Until nothing is left to happen."""
        heap, actions = self.heap, self._actions
        while heap:
            now_s, rank = heappop(heap)
            actions[rank](now_s)


@dataclass(frozen=True)
class Route:
    """The stations of a token, the seconds of work it brings to each, and the seconds that it
    spends before each on its own; a last gap follows the last station.
    """

    stations: "Sequence[Station]"
    seconds: Sequence[float]
    gaps_s: Sequence[float]


@final
class Token:
    """Something that visits stations one after another. `spans` grows by arrival, start and end
    [s] of each visit; `then` happens when all is done.
    """

    __slots__ = (
        "_at",
        "_clock",
        "_gaps_s",
        "_heap",
        "_ready_s",
        "_seconds",
        "_stations",
        "_then",
        "_visits",
        "rank",
        "spans",
    )

    def __init__(self, clock: Clock, rank: int, route: Route, then: Action = nothing) -> None:
        self.rank = rank
        self.spans = array("d")
        self._clock = clock
        self._heap = clock.heap
        self._stations = route.stations
        self._seconds = route.seconds
        self._gaps_s = route.gaps_s
        self._visits = len(route.stations)
        self._then = then
        self._at = 0
        self._ready_s = 0.0

    @property
    def is_new(self) -> bool:
        """Whether it has not left its first station yet."""
        return self._at == 0

    def begin(self, now_s: float) -> None:
        """Set out for the first station."""
        self._clock.call(self.rank, self._act)
        heappush(self._heap, (now_s + self._gaps_s[0], self.rank))

    def leave(self, start_s: float, end_s: float) -> None:
        """Told by the station, as soon as it knows, when its work began and will end."""
        self.spans.extend((self._ready_s, start_s, end_s))
        self._at = at = self._at + 1
        heappush(self._heap, (end_s + self._gaps_s[at], self.rank))

    def _act(self, now_s: float) -> None:
        """Arrive at the next station, or at the end."""
        at = self._at
        if at == self._visits:
            self._then(now_s)
            return
        self._ready_s = now_s
        self._stations[at].arrive(now_s, self, self._seconds[at])


class Station(ABC):
    """Where tokens may have to wait for each other, or slow each other down."""

    @abstractmethod
    def arrive(self, now_s: float, token: Token, seconds: float) -> None:
        """Take in a token with `seconds` of work; sooner or later tell it when it leaves.

        Called in the order of time.
        """
