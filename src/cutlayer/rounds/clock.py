"""The simulated clock, the tokens that go from station to station on it, and the stations.

Between two stations that it may have to share, a token spends a known time, so all private steps
between them are one gap: the heap holds one entry a token, however many steps a round has. A
station that knows when a token will leave tells it at once, even if that lies ahead.
"""

from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from typing import final

from cutlayer.rounds.batching import ServerBatching, Waiting

Action = Callable[[float], None]


def do_nothing(now_s: float) -> None:
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
        self._actions: list[Action] = [do_nothing] * tokens

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
class Visitor:
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

    def __init__(self, clock: Clock, rank: int, route: Route, then: Action = do_nothing) -> None:
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
    def arrive(self, now_s: float, token: Visitor, seconds: float) -> None:
        """Take in a token with `seconds` of work; sooner or later tell it when it leaves.

        Called in the order of time.
        """


@final
class OpeningGate(Station):
    """Opens at `open_s`; whoever comes later goes through."""

    def __init__(self, open_s: float) -> None:
        self._open_s = open_s

    def arrive(self, now_s: float, token: Visitor, seconds: float) -> None:
        start_s = max(now_s, self._open_s)
        token.leave(start_s, start_s + seconds)


@final
class Fifo(Station):
    """First come, first served by `workers`. Who brings no work (a payload of no bytes, a
    micro-batch of no samples) does not wait.
    """

    def __init__(self, workers: int = 1) -> None:
        self._free_s = [0.0] * workers

    def arrive(self, now_s: float, token: Visitor, seconds: float) -> None:
        if seconds == 0.0:
            token.leave(now_s, now_s)
            return
        start_s = max(now_s, self._free_s[0])
        end_s = start_s + seconds
        heapreplace(self._free_s, end_s)
        token.leave(start_s, end_s)


@dataclass(frozen=True)
class ServerPass:
    """One pass of the server: when [s], and of how many mini-batches."""

    start_s: float
    end_s: float
    mini_batches: int


@dataclass(frozen=True)
class _Here:
    """Who waits: since when [s], with how many seconds of work, which is of so many tokens."""

    since_s: float
    token: Visitor
    seconds: float
    size: Waiting


@final
class Arrivals(Station):
    """Whenever one of `workers` is free, all that wait are served as `batching` says.

    A pass takes the sum of its visitors' seconds, those of padding among them, and at least
    `floor_s`; all leave as it ends. `sizes`: by rank, those of the visits that are to come. Those
    of `lanes` ranks are one device's. `one_each`: none of its mini-batches is taken with the one
    before it, whose step it needs. Who brings no work does not wait. `passes` grows.
    """

    def __init__(
        self,
        clock: Clock,
        batching: ServerBatching,
        workers: int,
        floor_s: float,
        sizes: Mapping[int, Iterable[tuple[int, int]]],
        lanes: int,
        *,
        one_each: bool = False,
    ) -> None:
        self._heap = clock.heap
        self._rank = clock.join(self._serve)
        self._one_each = one_each
        self._batching = batching
        self._floor_s = floor_s
        self._sizes = {rank: deque(own) for rank, own in sizes.items()}
        self._lanes = lanes
        self._free_s = [0.0] * workers
        self._here: list[_Here] = []
        self.passes: list[ServerPass] = []

    def arrive(self, now_s: float, token: Visitor, seconds: float) -> None:
        samples, tokens = self._sizes[token.rank].popleft()
        if seconds == 0.0:
            token.leave(now_s, now_s)
            return
        size = Waiting(token.rank // self._lanes, samples, tokens)
        self._here.append(_Here(now_s, token, seconds, size))
        # after all that come at this second
        heappush(self._heap, (max(now_s, self._free_s[0]), self._rank))

    def _serve(self, now_s: float) -> None:
        while self._here and self._free_s[0] <= now_s:
            looked = self._looked
            waiting = [self._here[place].size for place in looked]
            waited_s = now_s - self._here[0].since_s
            later_s = now_s + self._batching.pause_s(waiting, waited_s, self._more(waiting))
            if later_s > now_s:
                heappush(self._heap, (later_s, self._rank))
                return
            taken = [looked[n] for n in self._batching.take(waiting)]
            served = [self._here[place] for place in taken]
            self._here = [one for n, one in enumerate(self._here) if n not in set(taken)]
            end_s = self._pass_by_pass(now_s, served)
            heapreplace(self._free_s, end_s)
            if self._here:
                heappush(self._heap, (max(now_s, self._free_s[0]), self._rank))

    @property
    def _looked(self) -> list[int]:
        """The places of those that may be taken, in their order."""
        if not self._one_each:
            return list(range(len(self._here)))
        first: dict[int, int] = {}
        for place, one in enumerate(self._here):
            first.setdefault(one.size.device, place)
        return list(first.values())

    def _pass_by_pass(self, now_s: float, served: Sequence[_Here]) -> float:
        for places in self._batching.passes([one.size for one in served]):
            together = [served[place] for place in places]
            longest = max(one.size.tokens for one in together)
            work_s = sum(one.seconds * longest / one.size.tokens for one in together)
            start_s, now_s = now_s, now_s + max(work_s, self._floor_s)
            self.passes.append(ServerPass(start_s, now_s, len(together)))
            for one in together:
                one.token.leave(start_s, now_s)
        return now_s

    def _more(self, waiting: Sequence[Waiting]) -> bool:
        """Whether a device with nothing here has anything to bring."""
        if not self._batching.coalesce_s:
            return False  # nobody would wait for it
        here = {one.device for one in waiting}
        return any(left and rank // self._lanes not in here for rank, left in self._sizes.items())


@final
class Turns(Station):
    """One at a time in a given order of ranks, whoever comes first."""

    def __init__(self, order: Iterator[int]) -> None:
        self._order = order
        self._next = next(order, None)
        self._here: dict[int, tuple[Visitor, float]] = {}
        self._free_s = 0.0

    def arrive(self, now_s: float, token: Visitor, seconds: float) -> None:
        self._here[token.rank] = (token, seconds)
        while self._next in self._here:
            served, work_s = self._here.pop(self._next)
            start_s = max(now_s, self._free_s)
            self._free_s = start_s + work_s
            self._next = next(self._order, None)
            served.leave(start_s, self._free_s)


@final
class Together(Station):
    """Waits for `counts[0]` tokens, works on all of them until all end together, then for
    `counts[1]`, and so on.

    Work that can be divided among `workers`, one token's by one at a time, takes the longer of its
    sum over the workers and its longest part (McNaughton 1959).
    """

    def __init__(self, counts: Sequence[int], workers: int = 1) -> None:
        self._counts = iter(counts)
        self._missing = next(self._counts, 0)
        self._workers = workers
        self._here: list[tuple[Visitor, float]] = []

    def arrive(self, now_s: float, token: Visitor, seconds: float) -> None:
        self._here.append((token, seconds))
        if len(self._here) < self._missing:
            return
        work_s = [work_s for _, work_s in self._here]
        end_s = now_s + max(sum(work_s) / self._workers, max(work_s))
        leaving, self._here = self._here, []
        self._missing = next(self._counts, 0)
        for served, _ in leaving:
            served.leave(now_s, end_s)


@final
class Shared(Station):
    """Processor sharing: each of n devices with something to send proceeds at 1/n of full speed.

    A device sends its own in the order of their arrival; those of `lanes` ranks are one device's.
    On a virtual clock that runs at 1/n of real speed each end is fixed when work begins, so a visit
    costs O(log n).
    """

    def __init__(self, clock: Clock, lanes: int) -> None:
        self._heap = clock.heap
        self._rank = clock.join(self._end)
        self._lanes = lanes
        self._virtual_s = 0.0
        self._seen_s = 0.0
        self._due_s = 0.0
        # by virtual end, then by device: start [s], token
        self._under_way: list[tuple[float, int, float, Visitor]] = []
        # of devices with something under way: what they send after it
        self._later: dict[int, deque[tuple[Visitor, float]]] = {}

    def arrive(self, now_s: float, token: Visitor, seconds: float) -> None:
        device = token.rank // self._lanes
        if device in self._later:
            self._later[device].append((token, seconds))
            return
        self._later[device] = deque()
        self._advance(now_s)
        self._begin(now_s, device, token, seconds)
        self._plan(now_s)

    def _begin(self, now_s: float, device: int, token: Visitor, seconds: float) -> None:
        entry = (self._virtual_s + seconds, device, now_s, token)
        heappush(self._under_way, entry)

    def _advance(self, now_s: float) -> None:
        if self._under_way:
            self._virtual_s += (now_s - self._seen_s) / len(self._under_way)
        else:
            # an idle link forgets: the virtual clock stays small, hence exact
            self._virtual_s = 0.0
        self._seen_s = now_s

    def _plan(self, now_s: float) -> None:
        """Act when the next one ends; a plan made before is void, see `_end`."""
        left_s = max(0.0, self._under_way[0][0] - self._virtual_s)
        self._due_s = now_s + left_s * len(self._under_way)
        heappush(self._heap, (self._due_s, self._rank))

    def _end(self, now_s: float) -> None:
        if now_s != self._due_s or not self._under_way:
            # somebody came after this was planned, or all is done
            return
        self._virtual_s, self._seen_s = self._under_way[0][0], now_s
        while self._under_way and self._under_way[0][0] <= self._virtual_s:
            _, device, start_s, token = heappop(self._under_way)
            token.leave(start_s, now_s)
            if self._later[device]:
                self._begin(now_s, device, *self._later[device].popleft())
            else:
                del self._later[device]
        if self._under_way:
            self._plan(now_s)
