"""Schedules of faults, drawn from a seed: what breaks, and when. Knows no run."""

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np


class Fault(Enum):
    """What may break; the value is how a schedule reads."""

    DEVICE_BEFORE = "device killed before it computes or writes"
    DEVICE_AFTER = "device killed after it has computed or written"
    DEVICE_AT_FRAME = "device killed as it sends or receives"
    DEVICE_SLOW = "device slow"
    DEVICE_FULL = "device's disk full"
    DEVICE_FORGETS = "device loses its disk"
    DEVICE_GONE = "device goes away"
    SERVER_BEFORE = "server killed before it computes or writes"
    SERVER_AFTER = "server killed after it has computed or written"
    SERVER_TORN = "server killed within a write to its journal"
    SERVER_BETWEEN = "server killed between two events"
    SERVER_SLOW = "server slow"
    BEFORE_CHECKPOINT = "server killed before a checkpoint"
    AFTER_CHECKPOINT = "server killed between a checkpoint and the end of its journal"
    JOURNAL_FULL = "server's disk full at its journal"
    CHECKPOINT_FULL = "server's disk full at a checkpoint"
    CUT = "link cut between frames"
    CUT_WITHIN = "link cut within a frame"
    TWICE = "frame twice"
    SWAPPED = "two frames in the wrong order"
    CLOCK_FORWARD = "clock hours ahead"
    CLOCK_BACK = "clock hours back"


class Blow(Enum):
    """What may happen to real processes."""

    SERVER_KILLED = "server killed (SIGKILL), and resumed"
    DEVICE_KILLED = "device killed (SIGKILL), and started again"
    SERVER_HALTED = "server halted for a while (SIGSTOP)"
    DEVICE_HALTED = "device halted for a while (SIGSTOP)"
    CUT = "all connections cut, one within a frame"
    SERVER_FULL = "server's file system full"
    DEVICE_FULL = "device's file system full"
    CLOCKS = "all wall clocks hours ahead and back"
    DEVICE_GONE = "device killed, never to return"


# what a fault is counted as, where that depends on where it strikes
_SEEN = {
    Fault.DEVICE_AFTER: ("device killed, work not on disk", "device killed, state just on disk"),
    Fault.SERVER_AFTER: (
        "server killed after it has computed",
        "server killed between its journal and its answer",
    ),
    Fault.CUT: (
        "link cut before a frame up",
        "link cut after a frame up",
        "link cut, a frame down lost",
    ),
    Fault.CUT_WITHIN: ("link cut within a frame up", "link cut within a frame down"),
    Fault.TWICE: ("a frame up twice", "a frame down twice"),
}


def seen(fault: Fault) -> tuple[str, ...]:
    """The names under which a fault is counted."""
    return _SEEN.get(fault, (fault.value,))


class Kind(Enum):
    """What a schedule may cost: `KEEPS`, nothing. `GIVES_UP`: nothing, but the server gives up
    while a device is away. `LATE`: rounds close without a device. `FORGETS`: a device begins a
    round again."""

    KEEPS = "keeps"
    GIVES_UP = "gives up"
    LATE = "late"
    FORGETS = "forgets"


# how often a run of three devices and two rounds of two local steps of two micro-batches comes to
# where each may happen, roughly
_OFTEN = {
    Fault.DEVICE_BEFORE: 80,
    Fault.DEVICE_AFTER: 80,
    Fault.DEVICE_AT_FRAME: 100,
    Fault.DEVICE_SLOW: 80,
    Fault.DEVICE_FULL: 60,
    Fault.SERVER_BEFORE: 60,
    Fault.SERVER_AFTER: 60,
    Fault.SERVER_TORN: 28,
    Fault.SERVER_BETWEEN: 12,
    Fault.SERVER_SLOW: 60,
    Fault.BEFORE_CHECKPOINT: 2,
    Fault.AFTER_CHECKPOINT: 2,
    Fault.JOURNAL_FULL: 50,
    Fault.CHECKPOINT_FULL: 2,
    Fault.CUT: 100,
    Fault.CUT_WITHIN: 70,
    Fault.TWICE: 70,
    Fault.SWAPPED: 4,
    Fault.CLOCK_FORWARD: 12,
    Fault.CLOCK_BACK: 12,
}
_SPECIAL: dict[Kind, dict[Fault, int]] = {
    Kind.KEEPS: {},
    Kind.GIVES_UP: {Fault.DEVICE_GONE: 60},
    Kind.LATE: {Fault.DEVICE_GONE: 60},
    Kind.FORGETS: {Fault.DEVICE_FORGETS: 1},
}
# what a run of three processes sends before its last round, roughly, both ways
BLOWS_END_BYTES = 220_000
_KINDS = (Kind.KEEPS, Kind.KEEPS, Kind.LATE, Kind.FORGETS, Kind.GIVES_UP)


@dataclass(frozen=True)
class Planned:
    """A fault that happens as soon as it can, from the `after`-th place where it may be on; one of
    processes, when they have sent so many bytes.

    `size`: of what has one, from 0 to 1 (how much of a frame arrives, how long something takes).
    """

    fault: Fault | Blow
    after: int
    size: float

    def __str__(self) -> str:
        return f"{self.fault.value}, from place {self.after} on, size {self.size:.2f}"


@dataclass(frozen=True)
class Schedule:
    """What breaks in a run, and the run's rule for its rounds [s, of the run's own time].

    `batches`: whether mini-batches that wait at the server share a pass.
    """

    seed: int
    kind: Kind
    quorum: int
    deadline_s: float | None
    give_up_s: float | None
    planned: tuple[Planned, ...]
    batches: bool = False

    def __str__(self) -> str:
        rule = f"quorum {self.quorum}, deadline {self.deadline_s} s, gives up {self.give_up_s} s"
        rule += ", batches" if self.batches else ""
        faults = "".join(f"\n  {planned}" for planned in self.planned)
        return f"schedule {self.seed} ({self.kind.value}; {rule}):{faults}"


def draw(seed: int) -> Schedule:
    """The schedule of a seed: three to nine faults, those of its kind among them; every other five
    seeds have batches."""
    batches = seed // len(_KINDS) % 2 == 1
    return replace(_draw(seed), batches=batches)


def _draw(seed: int) -> Schedule:
    rng = np.random.default_rng(seed)
    kind = _KINDS[seed % len(_KINDS)]
    special = _SPECIAL[kind]
    common = [list(_OFTEN)[place] for place in rng.integers(len(_OFTEN), size=rng.integers(3, 9))]
    often = {**_OFTEN, **special}
    planned = tuple(
        Planned(fault, int(rng.integers(1, often[fault] + 1)), float(rng.random()))
        for fault in (*special, *common)
    )
    if kind is Kind.LATE:
        return Schedule(seed, kind, 2, float(rng.integers(10, 60)), None, planned)
    if kind is Kind.GIVES_UP:
        return Schedule(seed, kind, 3, float(rng.integers(10, 60)), 200.0, planned)
    return alone(kind, planned, seed)


def alone(kind: Kind, planned: tuple[Planned, ...], seed: int = 0) -> Schedule:
    """These faults, where a round waits for all devices, for ever."""
    return Schedule(seed, kind, 3, None, None, planned)


def blows(disks: bool) -> list[Blow]:
    """Those that can be dealt: `disks`, where file systems can be filled."""
    full = (Blow.SERVER_FULL, Blow.DEVICE_FULL)
    return [blow for blow in Blow if disks or blow not in full]


def draw_blows(seed: int, disks: bool) -> Schedule:
    """The schedule of a seed for real processes: one kind after the other, and two besides."""
    rng = np.random.default_rng([seed, 2])
    usual = [blow for blow in blows(disks) if blow is not Blow.DEVICE_GONE]
    late = seed % 5 == 4
    first = Blow.DEVICE_GONE if late else usual[(seed - seed // 5) % len(usual)]
    chosen = [first, *(usual[place] for place in rng.integers(len(usual), size=2))]
    planned = tuple(
        Planned(blow, int(rng.integers(20_000, BLOWS_END_BYTES)), float(rng.random()))
        for blow in chosen
    )
    if late:
        return Schedule(seed, Kind.LATE, 2, 3.0, None, planned)
    return alone(Kind.KEEPS, planned, seed)
