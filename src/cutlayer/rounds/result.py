"""A simulated round: when each device did what, what it waited for, and which device was last.

Also as events, and in the Chrome trace format, which opens in Perfetto (ui.perfetto.dev). Knows no
queue: the seconds are given. Every span is its arrival, its start and its end [s].
"""

import heapq
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import count
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64

from cutlayer.rounds.clock import ServerPass
from cutlayer.rounds.schemes import DeviceOrder, Phase, Place, Scheme
from cutlayer.rounds.work import DeviceWork, Duplex, Leg, Legs, Sharing, SharingRules, legs_of

READY, START, END = 0, 1, 2
_MICROSECONDS = 1e6

_TraceRecord: TypeAlias = dict[str, str | int | float | dict[str, str | int | float | None]]


@dataclass(frozen=True)
class TimelineEvent:
    """One step or wait of one device on the simulated clock.

    `local_step` and `micro_batch` count from 0; in opening and closing they are None.
    """

    device: int
    local_step: int | None
    micro_batch: int | None
    phase: Phase
    start_s: float
    end_s: float
    payload_bytes: int


@dataclass(frozen=True, eq=False)
class DeviceTimeline:
    """One device's round: arrival, start and end [s] of each leg, by the legs of its scheme.

    `overlaps`: several micro-batches were under way at a time; else each began where the one before
    it ended.
    """

    opening_s: Float64[np.ndarray, "opening 3"]
    local_s: Float64[np.ndarray, "repeat leg 3"]
    closing_s: Float64[np.ndarray, "closing 3"]
    overlaps: bool

    @property
    def delay_s(self) -> float:
        """From the start of the round until this device has closed it [s]."""
        if len(self.closing_s):
            return float(self.closing_s[-1, END])
        if self.local_s.size:
            return float(self.local_s[:, -1, END].max())
        return float(self.opening_s[-1, END]) if len(self.opening_s) else 0.0


@dataclass(frozen=True)
class Utilisation:
    """Parts of the round in which a resource worked, from 0 to 1.

    Of the server's workers, and of the bandwidth each way; with static shares the mean of the
    devices' own. Broadcasts are not counted.
    """

    server: float
    uplink: float
    downlink: float


@dataclass(frozen=True, eq=False)
class RoundTimeline:
    """A simulated round. `passes`: of a server that serves together who has arrived, in the order
    in which they began; one that does not has none here."""

    scheme: Scheme
    work: tuple[DeviceWork, ...]
    rules: SharingRules
    devices: tuple[DeviceTimeline, ...]
    passes: tuple[ServerPass, ...] = ()

    @property
    def delay_s(self) -> float:
        """The round ends with its slowest device [s]. Source: SFT eq. (27)."""
        return max(device.delay_s for device in self.devices)

    @property
    def slowest_device(self) -> int:
        """The device that ends the round; the lowest of several."""
        return int(np.argmax([device.delay_s for device in self.devices]))

    def phase_seconds(self, device: int) -> dict[Phase, float]:
        """Seconds that `device` spends in each phase on its way to its end; they sum to its delay.

        Where micro-batches overlap this is the critical path: from the device's last step back to
        what let each step begin. A step that waited for another of its own device at its computing
        unit or in its own share of the bandwidth leads back to that one, so time is a wait only
        where it was for others: for the server, the shared bandwidth, a barrier, a turn.
        """
        line = self.devices[device]
        legs = legs_of(self.scheme)
        total = dict.fromkeys(Phase, 0.0)
        _add_chain(total, legs.opening, line.opening_s[None])
        if line.overlaps:
            for phase, seconds in _critical_path(
                line.local_s, self.work[device].in_sequence(self.scheme), self._own_stations(legs)
            ):
                leg = legs.local[phase.leg]
                key = leg.wait if phase.waits or leg.step is None else leg.step.phase
                total[key] += seconds
        else:
            _add_chain(total, legs.local, line.local_s)
        _add_chain(total, legs.closing, line.closing_s[None])
        return total

    def critical_phase_seconds(self) -> dict[Phase, float]:
        """Seconds of the round by phase; they sum to its delay.

        Those of the slowest device; of devices in turn the sum of all, without the waiting for a
        turn and the broadcasts that were heard in the meantime.
        """
        if self.scheme.devices is DeviceOrder.PARALLEL:
            return self.phase_seconds(self.slowest_device)
        return self._in_turn()

    def _in_turn(self) -> dict[Phase, float]:
        total = dict.fromkeys(Phase, 0.0)
        for device, line in enumerate(self.devices):
            own = self.phase_seconds(device)
            turn_s = own.pop(Phase.TURN)
            if device == 0 or turn_s > 0:
                heard = self._broadcasts() if device > 0 else 0
                for leg, (_, start_s, end_s) in zip(
                    legs_of(self.scheme).opening[:heard], line.opening_s, strict=False
                ):
                    assert leg.step is not None
                    own[leg.step.phase] -= float(end_s - start_s)
            else:
                # its broadcast outlasted all devices before it
                total = dict.fromkeys(Phase, 0.0)
            for phase, seconds in own.items():
                total[phase] += seconds
        return total

    def _broadcasts(self) -> int:
        """How many legs of the opening come before the turn."""
        return [leg.step is None for leg in legs_of(self.scheme).opening].index(True)

    def utilisation(self) -> Utilisation:
        """How much of the round the server and the bandwidth were in use."""
        # a device whose turn it is has the bandwidth to itself
        shares = len(self.devices) if self.scheme.devices is DeviceOrder.PARALLEL else 1
        return Utilisation(
            server=self._server_utilisation(),
            uplink=self._utilisation(
                Place.UPLINK, 1 if self.rules.whole_bandwidth(Place.UPLINK) else shares
            ),
            downlink=self._utilisation(
                Place.DOWNLINK, 1 if self.rules.whole_bandwidth(Place.DOWNLINK) else shares
            ),
        )

    def _server_utilisation(self) -> float:
        if not self.passes:
            return self._utilisation(Place.SERVER, self.rules.server_workers)
        busy_s = sum(each.end_s - each.start_s for each in self.passes)
        return busy_s / (self.rules.server_workers * self.delay_s)

    def _utilisation(self, place: Place, servers: int) -> float:
        whole = self.rules.whole_bandwidth(place)
        seconds = 0.0
        for work in self.work:
            for steps, repeats in (
                (self.scheme.opening, 1),
                (self.scheme.local, work.repeats),
                (self.scheme.closing, 1),
            ):
                for step in steps:
                    if step.place is place:
                        seconds += float(work.seconds(step, repeats, whole).sum())
        return seconds / (servers * self.delay_s) if seconds > 0 else 0.0

    def _own_stations(self, legs: Legs) -> tuple[int | None, ...]:
        """Which station of the device's own each local leg is at, by number; None: shared."""
        numbers: dict[Place, int | None] = {Place.SERVER: None, Place.DEVICE: 0, Place.UPLINK: 1}
        numbers[Place.DOWNLINK] = 1 if self.rules.duplex is Duplex.HALF else 2
        # where transfers have the bandwidth in turn, those of other devices come first too
        if self.rules.uplink is Sharing.IN_TURN:
            numbers[Place.UPLINK] = None
        if self.rules.downlink is Sharing.IN_TURN:
            numbers[Place.DOWNLINK] = None
        return tuple(None if leg.step is None else numbers[leg.step.place] for leg in legs.local)

    def events(self) -> Iterator[TimelineEvent]:
        """Every step and wait of every device, device by device, each micro-batch in its order.

        Waits of 0 s are left out. Where micro-batches overlap, each waits for its forward from the
        start of its local step.
        """
        for device in range(len(self.devices)):
            yield from self.device_events(device)

    def device_events(self, device: int) -> Iterator[TimelineEvent]:
        """The events of one device, in their order."""
        legs = legs_of(self.scheme)
        line, work = self.devices[device], self.work[device]
        yield from _events(device, work, legs.opening, line.opening_s[None], None)
        yield from _events(device, work, legs.local, line.local_s, work.micro_batches)
        yield from _events(device, work, legs.closing, line.closing_s[None], None)


def _add_chain(
    total: dict[Phase, float], legs: tuple[Leg, ...], spans_s: Float64[np.ndarray, "repeat leg 3"]
) -> None:
    """Add what legs that follow each other took, and waited."""
    waits = (spans_s[:, :, START] - spans_s[:, :, READY]).sum(axis=0).tolist()
    stays = (spans_s[:, :, END] - spans_s[:, :, START]).sum(axis=0).tolist()
    for leg, wait_s, stay_s in zip(legs, waits, stays, strict=True):
        total[leg.wait] += wait_s
        if leg.step is not None:
            total[leg.step.phase] += stay_s


@dataclass(frozen=True)
class _PathPiece:
    """A part of the path: at a leg, or waiting before it."""

    leg: int
    waits: bool


def _critical_path(
    spans_s: Float64[np.ndarray, "repeat leg 3"],
    micro_batches: int,
    own_stations: Sequence[int | None],
) -> Iterator[tuple[_PathPiece, float]]:
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

    def walk(self) -> Iterator[tuple[_PathPiece, float]]:
        """From the last micro-batch to end back to the start of the local step."""
        here: tuple[int, int] | None = max(
            ((row, self._last) for row in range(len(self._rows))),
            key=lambda place: self._rows[place[0]][self._last][2],
        )
        while here is not None:
            self._seen.add(here)
            row, leg = here
            ready_s, start_s, end_s = self._rows[row][leg]
            yield _PathPiece(leg, waits=False), end_s - start_s
            before = (row, leg - 1) if leg else None
            if start_s > ready_s:
                held = self._held_up_by(leg, start_s)
                if held is None:
                    yield _PathPiece(leg, waits=True), start_s - ready_s
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


def _events(
    device: int,
    work: DeviceWork,
    legs: tuple[Leg, ...],
    spans_s: Float64[np.ndarray, "repeat leg 3"],
    micro_batches: int | None,
) -> Iterator[TimelineEvent]:
    sizes = [
        np.zeros(len(spans_s)) if leg.step is None else work.payload_bytes(leg.step) for leg in legs
    ]
    for repeat, row in enumerate(spans_s.tolist()):
        step, micro = divmod(repeat, micro_batches) if micro_batches else (None, None)
        for leg, (ready_s, start_s, end_s), size in zip(legs, row, sizes, strict=True):
            if start_s > ready_s:
                yield TimelineEvent(device, step, micro, leg.wait, ready_s, start_s, 0)
            if leg.step is not None:
                yield TimelineEvent(
                    device, step, micro, leg.step.phase, start_s, end_s, int(size[repeat])
                )


class _Track(IntEnum):
    """What Perfetto shows as a process each; the number is its `pid`."""

    DEVICES = 1
    UPLINK = 2
    SERVER = 3
    DOWNLINK = 4


_SHARED = {
    Place.UPLINK: _Track.UPLINK,
    Place.SERVER: _Track.SERVER,
    Place.DOWNLINK: _Track.DOWNLINK,
}


@dataclass(frozen=True)
class _Slice:
    """One box: `name` on line `line` of a track."""

    track: _Track
    line: int
    name: str
    event: TimelineEvent


def chrome_trace_of(scheme: Scheme, events: Sequence[TimelineEvent]) -> str:
    """The events of a round of `scheme` as JSON text.

    Every device has a line for what it does and waits for (where micro-batches overlap, one for
    each of them; where local steps do, one for each of theirs). The uplink, the server and the
    downlink have as many lines as there are transfers or mini-batches at a time. Times are in
    microseconds since the round began; `args` tell device, local step, micro-batch and payload
    bytes.
    Source: "Trace Event Format", the complete events (`X`) and the metadata events (`M`).
    """
    lanes = _lanes(scheme, events)
    lines = 1 + max(lanes, default=0)
    slices = [
        _Slice(_Track.DEVICES, event.device * lines + lane, event.phase, event)
        for event, lane in zip(events, lanes, strict=True)
    ]
    slices += _shared_slices(scheme, events)
    what = "local step" if scheme.streams else "micro-batch"
    records = [*_names(slices, lines, what), *map(_record, slices)]
    return json.dumps({"traceEvents": records, "displayTimeUnit": "ms"})


def _lanes(scheme: Scheme, events: Sequence[TimelineEvent]) -> list[int]:
    """Which of its device's lines each event is on."""
    if not (scheme.pipelined or scheme.streams):
        return [0] * len(events)
    micro_batches = 1 + max((event.micro_batch or 0 for event in events), default=0)
    steps = [(event.local_step or 0) if scheme.streams else 0 for event in events]
    return [
        step * micro_batches + (event.micro_batch or 0)
        for step, event in zip(steps, events, strict=True)
    ]


def _shared_slices(scheme: Scheme, events: Sequence[TimelineEvent]) -> Iterator[_Slice]:
    """What shared stations work on, each piece on the first line that is free."""
    places: dict[Phase, Place] = {
        step.phase: step.place for step in (*scheme.opening, *scheme.local, *scheme.closing)
    }
    for place, track in _SHARED.items():
        mine = [event for event in events if places.get(event.phase) is place]
        mine.sort(key=lambda event: (event.start_s, event.end_s))
        # by the second at which it ended: lines in use; by number: lines that are free again
        used: list[tuple[float, int]] = []
        free: list[int] = []
        fresh = count()
        for event in mine:
            while used and used[0][0] <= event.start_s:
                heapq.heappush(free, heapq.heappop(used)[1])
            line = heapq.heappop(free) if free else next(fresh)
            heapq.heappush(used, (event.end_s, line))
            yield _Slice(track, line, f"device {event.device}", event)


def _names(slices: Sequence[_Slice], lines: int, what: str) -> Iterator[_TraceRecord]:
    """Metadata: what tracks and their lines are called; of a device's `lines`, `what` each is."""
    for track in _Track:
        yield _metadata("process_name", track, 0, {"name": track.name.lower()})
        yield _metadata("process_sort_index", track, 0, {"sort_index": int(track)})
    for track, line in sorted({(piece.track, piece.line) for piece in slices}):
        if track is _Track.DEVICES:
            device, lane = divmod(line, lines)
            name = f"device {device}" + (f", {what} {lane}" if lane else "")
        else:
            name = f"{track.name.lower()} {line}"
        yield _metadata("thread_name", track, line, {"name": name})


def _metadata(
    name: str, track: _Track, line: int, args: dict[str, str | int | float | None]
) -> _TraceRecord:
    return {"name": name, "ph": "M", "ts": 0, "pid": int(track), "tid": line, "args": args}


def _record(piece: _Slice) -> _TraceRecord:
    event = piece.event
    return {
        "name": str(piece.name),
        "cat": str(event.phase),
        "ph": "X",
        "ts": event.start_s * _MICROSECONDS,
        "dur": (event.end_s - event.start_s) * _MICROSECONDS,
        "pid": int(piece.track),
        "tid": piece.line,
        "args": {
            "device": event.device,
            "local_step": event.local_step,
            "micro_batch": event.micro_batch,
            "payload_bytes": event.payload_bytes,
        },
    }
