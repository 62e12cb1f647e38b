"""The event simulation of one round of any scheme, under given rules.

Puts each device's tokens on the clock, and reads off when they were where. A device that has one
micro-batch under way at a time is one token, and stops only at the stations that it shares with
others; one that has several is a `MicroBatchPipeline`. Knows no model and no channel: the work
brings its amounts and rates.
"""

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from heapq import heappush
from typing import final

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy.lib.stride_tricks import sliding_window_view

from cutlayer.errors import ConfigError
from cutlayer.rounds.batching import ServerBatch
from cutlayer.rounds.clock import (
    Action,
    Arrivals,
    Clock,
    Fifo,
    OpeningGate,
    Route,
    ServerPass,
    Shared,
    Station,
    Together,
    Turns,
    Visitor,
    do_nothing,
)
from cutlayer.rounds.result import DeviceTimeline, RoundTimeline
from cutlayer.rounds.schemes import DeviceOrder, Place, Scheme, ServerOrder
from cutlayer.rounds.work import TURN, DeviceWork, Duplex, Leg, Legs, Sharing, SharingRules, legs_of


def simulate(
    scheme: Scheme, work: Sequence[DeviceWork], rules: SharingRules | None = None
) -> RoundTimeline:
    """Play one round of `scheme` with each device's `work`; without `rules`, the paper's.

    Everything that could happen at the same second goes by device number. Devices in turn have the
    rates in their work while they are alone, which is the caller's to give.

    Raises ConfigError without devices, for a scheme that visits the server more than once in a
    local step, for micro-batches at a server that keeps an order by local step, and for work that
    does not fit the scheme.
    Source: SFT eqs. (19) to (27), the server working in order of arrival (Section IV-A).
    """
    rules = SharingRules() if rules is None else rules
    _check(scheme, work)
    legs = legs_of(scheme)
    devices: list[DeviceTimeline] = []
    passes: list[ServerPass] = []
    if scheme.devices is DeviceOrder.PARALLEL:
        devices = _play(scheme, legs, work, rules, passes, turn_s=0.0)
    else:
        for device in work:
            turn_s = devices[-1].delay_s if devices else 0.0
            devices += _play(scheme, legs, [device], rules, passes, turn_s)
    return RoundTimeline(scheme, tuple(work), rules, tuple(devices), tuple(passes))


def _check(scheme: Scheme, work: Sequence[DeviceWork]) -> None:
    if not work:
        raise ConfigError("a round needs at least one device")
    if sum(step.place is Place.SERVER for step in scheme.local) > 1:
        raise ConfigError(f"scheme {scheme.name}: at most one server step in a local step")
    most = max(device.micro_batches for device in work)
    if most > 1 and scheme.server is not ServerOrder.ARRIVAL:
        raise ConfigError(
            f"scheme {scheme.name}: {most} micro-batches, but its server takes mini-batches in an"
            " order of its own: give 1 micro-batch"
        )
    if scheme.streams and scheme.server is not ServerOrder.ARRIVAL:
        raise ConfigError(
            f"scheme {scheme.name}: its devices wait for no server, so that it cannot take"
            " mini-batches in an order of its own: let it take them as they arrive"
        )


def _play(
    scheme: Scheme,
    legs: Legs,
    work: Sequence[DeviceWork],
    rules: SharingRules,
    passes: list[ServerPass],
    turn_s: float,
) -> list[DeviceTimeline]:
    """The timelines of devices that start a round together; its turn comes at `turn_s`. Passes of
    the server in which they shared are added to `passes`."""
    lanes = max(device.in_sequence(scheme) for device in work)
    clock = Clock(tokens=lanes * len(work))
    stations = _stations(scheme, work, rules, clock, lanes, turn_s)
    batches = isinstance(stations.server, Arrivals)

    @cache
    def shape(repeats: int) -> "_Shape":
        return _Shape(legs, stations, repeats)

    read: list[Callable[[], DeviceTimeline]] = []
    for number, device in enumerate(work):
        seconds = _seconds(legs, device, rules, shared_passes=batches)
        rank = number * lanes
        in_flight = device.most_in_flight(scheme)
        if in_flight == 1:
            chain = _Chain(clock, rank, shape(device.repeats), seconds)
            chain.token.begin(0.0)
            read.append(chain.timeline)
        else:
            counts = device.in_sequence(scheme), in_flight
            piped = _Piped(clock, rank, legs, stations, seconds, counts, rules)
            piped.opening.token.begin(0.0)
            read.append(piped.timeline)
    clock.run()
    if isinstance(stations.server, Arrivals):
        passes += stations.server.passes
    return [timeline() for timeline in read]


@final
class MicroBatchPipeline(Station):
    """A device with several micro-batches under way: its computing unit and the gate before it.

    One computation at a time, a waiting backward before a new forward. A local step ends when all
    its micro-batches have been through; the next needs it. For a device that streams, all of a
    round is one such step.

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
        self._new: deque[tuple[Visitor, float]] = deque()
        self._back: deque[tuple[Visitor, float]] = deque()
        self._busy: tuple[Visitor, float] | None = None
        self._admitted = 0
        self._tokens: list[Visitor] = []
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
            token = Visitor(self._clock, self._first_rank + micro_batch, route, self._finished)
            self._tokens.append(token)
            token.begin(now_s)
        self._open = self._micro_batches
        self._opened += self._micro_batches

    def arrive(self, now_s: float, token: Visitor, seconds: float) -> None:
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


@dataclass(frozen=True)
class _Stations:
    """What devices share: None for what each has to itself."""

    server: Station
    barrier: Station
    turn: Station
    uplink: Station | None
    downlink: Station | None

    def of(self, leg: Leg) -> Station | None:
        """Where a leg may have to wait for other devices, or None."""
        if leg.step is None:
            return self.turn if leg == TURN else self.barrier
        match leg.step.place:
            case Place.SERVER:
                return self.server
            case Place.UPLINK:
                return self.uplink
            case Place.DOWNLINK:
                return self.downlink
            case Place.DEVICE | Place.BROADCAST:
                return None


@dataclass(frozen=True)
class _Seconds:
    """A device's work by leg: seconds, 0 for a leg that only waits."""

    opening: Float64[np.ndarray, " opening"]
    local: Float64[np.ndarray, "repeat leg"]
    closing: Float64[np.ndarray, " closing"]


def _stations(
    scheme: Scheme,
    work: Sequence[DeviceWork],
    rules: SharingRules,
    clock: Clock,
    lanes: int,
    turn_s: float,
) -> _Stations:
    most = max(device.local_steps for device in work)
    steps = np.array([device.local_steps for device in work])
    counts = [int((steps > k).sum()) for k in range(most)]
    server: Station
    match scheme.server:
        case ServerOrder.ARRIVAL if rules.batching.batch is ServerBatch.ARRIVALS:
            floor_s = max(device.rates.server_floor_s for device in work)
            sizes = _sizes(scheme, work, lanes)
            server = Arrivals(
                clock,
                rules.batching,
                rules.server_workers,
                floor_s,
                sizes,
                lanes,
                one_each=scheme.streams,
            )
        case ServerOrder.ARRIVAL:
            server = Fifo(rules.server_workers)
        case ServerOrder.TURNS:
            server = Turns(
                n * lanes for k in range(most) for n in np.flatnonzero(steps > k).tolist()
            )
        case ServerOrder.TOGETHER:
            server = Together(counts, rules.server_workers)
    uplink = _link(rules.uplink, clock, lanes)
    downlink = uplink if rules.duplex is Duplex.HALF else _link(rules.downlink, clock, lanes)
    return _Stations(server, Together(counts), OpeningGate(turn_s), uplink, downlink)


def _sizes(
    scheme: Scheme, work: Sequence[DeviceWork], lanes: int
) -> dict[int, list[tuple[int, int]]]:
    """By rank, samples and tokens of each visit to the server, in their order."""
    sizes: dict[int, list[tuple[int, int]]] = {}
    for number, device in enumerate(work):
        own = [(1, 1)] * device.repeats
        if device.served is not None:
            own = [(samples, tokens) for samples, tokens in device.served.tolist()]
        several = device.in_sequence(scheme) if device.most_in_flight(scheme) > 1 else 1
        for lane in range(several):
            sizes[number * lanes + lane] = own[lane::several]
    return sizes


def _link(sharing: Sharing, clock: Clock, lanes: int) -> Station | None:
    match sharing:
        case Sharing.STATIC:
            return None
        case Sharing.IN_TURN:
            return Fifo()
        case Sharing.SHARED:
            return Shared(clock, lanes)


def _seconds(legs: Legs, work: DeviceWork, rules: SharingRules, *, shared_passes: bool) -> _Seconds:
    """`shared_passes`: at the server, the seconds that a device adds to a pass, not those of one
    of its own."""
    if shared_passes:
        work = replace(work, rates=replace(work.rates, server_floor_s=0.0))
    return _Seconds(
        opening=_leg_seconds(legs.opening, work, 1, rules)[0],
        local=_leg_seconds(legs.local, work, work.repeats, rules),
        closing=_leg_seconds(legs.closing, work, 1, rules)[0],
    )


def _leg_seconds(
    legs: Sequence[Leg], work: DeviceWork, repeats: int, rules: SharingRules
) -> Float64[np.ndarray, "repeat leg"]:
    seconds = np.zeros((repeats, len(legs)))
    for column, leg in enumerate(legs):
        if leg.step is not None:
            whole = rules.whole_bandwidth(leg.step.place)
            seconds[:, column] = work.seconds(leg.step, repeats, whole)
    return seconds


@final
class _Shape:
    """Where a chain of opening, `repeats` times local, and closing visits shared stations."""

    def __init__(self, legs: Legs, stations: _Stations, repeats: int) -> None:
        parts = ((legs.opening, 1), (legs.local, repeats), (legs.closing, 1))
        flat = [stations.of(leg) for part, times in parts for leg in part * times]
        self.stations = [station for station in flat if station is not None]
        self.shared: Bool[np.ndarray, " leg"] = np.array(
            [station is not None for station in flat], dtype=bool
        )
        visits = np.flatnonzero(self.shared)
        self.after: Int64[np.ndarray, " gap"] = np.concatenate([[0], visits + 1])


@final
class _Chain:
    """Legs that follow each other: one token."""

    def __init__(
        self,
        clock: Clock,
        rank: int,
        shape: _Shape,
        seconds: _Seconds,
        then: Action = do_nothing,
    ) -> None:
        self._split = (len(seconds.opening), seconds.local.shape)
        self._stays = np.concatenate([seconds.opening, seconds.local.ravel(), seconds.closing])
        self._shared = shape.shared
        private = np.append(np.where(shape.shared, 0.0, self._stays), 0.0)
        gaps = np.add.reduceat(private, shape.after)
        route = Route(shape.stations, _packed(self._stays[shape.shared]), _packed(gaps))
        self.token = Visitor(clock, rank, route, then)

    def spans_s(self, begin_s: float) -> Float64[np.ndarray, "leg 3"]:
        """Arrival, start and end of each leg, of a chain that set out at `begin_s`."""
        if not len(self._stays):
            return np.zeros((0, 3))
        lengths = np.zeros((len(self._stays), 2))
        lengths[:, 1] = self._stays
        ready, start, end = np.frombuffer(self.token.spans).reshape(-1, 3).T
        lengths[self._shared, 0] = start - ready
        lengths[self._shared, 1] = end - start
        bounds = np.empty(lengths.size + 1)
        bounds[0] = begin_s
        bounds[1:] = lengths.ravel()
        np.cumsum(bounds, out=bounds)
        # each span's end is the arrival of the next
        return np.asarray(sliding_window_view(bounds, 3)[::2], dtype=np.float64)

    def timeline(self) -> DeviceTimeline:
        """All of a device's round."""
        spans = self.spans_s(0.0)
        opening, (repeats, legs) = self._split
        local = opening + repeats * legs
        return DeviceTimeline(
            opening_s=spans[:opening],
            local_s=spans[opening:local].reshape(repeats, legs, 3),
            closing_s=spans[local:],
            overlaps=False,
        )


def _packed(values: Float64[np.ndarray, " value"]) -> "array[float]":
    """As an array of plain floats, which is quicker to index and nothing to the collector."""
    return array("d", values.tobytes())


@final
class _Piped:
    """A device with several micro-batches under way: an opening, a pipeline, a closing. `counts`:
    how many follow each other before it waits for all, how many of them are under way at most."""

    def __init__(
        self,
        clock: Clock,
        rank: int,
        legs: Legs,
        stations: _Stations,
        seconds: _Seconds,
        counts: tuple[int, int],
        rules: SharingRules,
    ) -> None:
        self._legs = len(legs.local)
        none, nowhere = np.zeros(0), np.zeros((0, 0))
        self._pipeline = MicroBatchPipeline(
            clock,
            rank,
            _own_stations(legs, stations, rules),
            seconds.local.tolist(),
            *counts,
            self._close,
        )
        before = _Shape(Legs(legs.opening, (), ()), stations, 0)
        opening = _Seconds(seconds.opening, nowhere, none)
        self.opening = _Chain(clock, rank, before, opening, self._pipeline.begin)
        after = _Shape(Legs((), (), legs.closing), stations, 0)
        self._closing = _Chain(clock, rank, after, _Seconds(none, nowhere, seconds.closing))
        self._closing_s = 0.0

    def _close(self, now_s: float) -> None:
        self._closing_s = now_s
        self._closing.token.begin(now_s)

    def timeline(self) -> DeviceTimeline:
        """All of a device's round."""
        spans = np.frombuffer(self._pipeline.spans)
        return DeviceTimeline(
            opening_s=self.opening.spans_s(0.0),
            local_s=spans.reshape(-1, self._legs, 3),
            closing_s=self._closing.spans_s(self._closing_s),
            overlaps=True,
        )


def _own_stations(legs: Legs, stations: _Stations, rules: SharingRules) -> list[Station | None]:
    """The stations of a micro-batch's legs, with the device's own bandwidth share among them;
    None where the device computes.
    """
    uplink = Fifo()
    own = {Place.UPLINK: uplink}
    own[Place.DOWNLINK] = uplink if rules.duplex is Duplex.HALF else Fifo()
    found = []
    for leg in legs.local:
        place = Place.SERVER if leg.step is None else leg.step.place
        found.append(stations.of(leg) or own.get(place))
    return found
