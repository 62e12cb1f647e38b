"""A simulated round in the Chrome trace format, which opens in Perfetto (ui.perfetto.dev).

Knows no file: the caller writes the text. Source: "Trace Event Format", the complete events (`X`)
and the metadata events (`M`).
"""

import heapq
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain, count
from typing import TypeAlias

from cutlayer.rounds.result import Event, RoundTimeline
from cutlayer.rounds.schemes import Phase, Place, Scheme

Record: TypeAlias = dict[str, str | int | float | dict[str, str | int | float | None]]

_MICROSECONDS = 1e6


class Track(IntEnum):
    """What Perfetto shows as a process each; the number is its `pid`."""

    DEVICES = 1
    UPLINK = 2
    SERVER = 3
    DOWNLINK = 4


_SHARED = {Place.UPLINK: Track.UPLINK, Place.SERVER: Track.SERVER, Place.DOWNLINK: Track.DOWNLINK}


@dataclass(frozen=True)
class _Slice:
    """One box: `name` on line `line` of a track."""

    track: Track
    line: int
    name: str
    event: Event


def chrome_trace(timeline: RoundTimeline, devices: Sequence[int] | None = None) -> str:
    """The round as JSON text; with `devices`, of those alone (a large round is a large text)."""
    shown = range(len(timeline.devices)) if devices is None else devices
    events = chain.from_iterable(timeline.device_events(device) for device in shown)
    return chrome_trace_of(timeline.scheme, list(events))


def chrome_trace_of(scheme: Scheme, events: Sequence[Event]) -> str:
    """The events of a round of `scheme` as JSON text.

    Every device has a line for what it does and waits for (where the scheme overlaps micro-batches,
    one for each of them). The uplink, the server and the downlink have as many lines as there are
    transfers or mini-batches at a time. Times are in microseconds since the round began; `args`
    tell device, local step, micro-batch and payload bytes.
    """
    lines = _lines_per_device(scheme, events)
    slices = [_device_slice(event, lines) for event in events]
    slices += _shared_slices(scheme, events)
    records = [*_names(slices, lines), *map(_record, slices)]
    return json.dumps({"traceEvents": records, "displayTimeUnit": "ms"})


def _lines_per_device(scheme: Scheme, events: Sequence[Event]) -> int:
    if not scheme.pipelined:
        return 1
    return 1 + max((event.micro_batch or 0 for event in events), default=0)


def _device_slice(event: Event, lines: int) -> _Slice:
    lane = (event.micro_batch or 0) if lines > 1 else 0
    return _Slice(Track.DEVICES, event.device * lines + lane, event.phase, event)


def _shared_slices(scheme: Scheme, events: Sequence[Event]) -> Iterator[_Slice]:
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


def _names(slices: Sequence[_Slice], lines: int) -> Iterator[Record]:
    """Metadata: what tracks and their lines are called."""
    for track in Track:
        yield _metadata("process_name", track, 0, {"name": track.name.lower()})
        yield _metadata("process_sort_index", track, 0, {"sort_index": int(track)})
    for track, line in sorted({(piece.track, piece.line) for piece in slices}):
        if track is Track.DEVICES:
            device, lane = divmod(line, lines)
            name = f"device {device}" + (f", micro-batch {lane}" if lane else "")
        else:
            name = f"{track.name.lower()} {line}"
        yield _metadata("thread_name", track, line, {"name": name})


def _metadata(
    name: str, track: Track, line: int, args: dict[str, str | int | float | None]
) -> Record:
    return {"name": name, "ph": "M", "ts": 0, "pid": int(track), "tid": line, "args": args}


def _record(piece: _Slice) -> Record:
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
