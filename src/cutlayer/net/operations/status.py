"""Where a run stands, and what came of each finished round."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from cutlayer.errors import RunError
from cutlayer.net.identity.run_keys import DeviceRegistry
from cutlayer.net.server.devices import DeviceProgress
from cutlayer.net.server.session import RunPlan, ServerSession
from cutlayer.training.records import Record, RoundRecord, TrainedRound, parse_round
from cutlayer.units import format_seconds, roughly

# The finished rounds of a run, as a page or a monitor is told of them.
#
# Knows the file of the records, which it reads as it grows. Of every round it keeps about a
# kilobyte, whatever the number of devices; what each device did, of the last round alone.


# of one answer: a page that has none yet asks several times
_MOST_ROUNDS = 500


@final
class History:
    """The rounds in the file at `path` (`rounds.jsonl`), which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0
        self._rounds: list[RoundRecord] = []
        self._by_device: tuple[Mapping[str, float], ...] = ()

    @property
    def last(self) -> RoundRecord | None:
        """The last round; None before the first."""
        self._read()
        return self._rounds[-1] if self._rounds else None

    def after(self, number: int) -> tuple[RoundRecord, ...]:
        """The rounds after round `number` in their order, the first 500 of them."""
        self._read()
        return tuple([one for one in self._rounds if one.round > number][:_MOST_ROUNDS])

    @property
    def by_device(self) -> tuple[Mapping[str, float], ...]:
        """The seconds by phase of each device in the last round; empty before the first."""
        self._read()
        return self._by_device

    def _read(self) -> None:
        """What was appended since; a line that is being written waits for its end."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for line in whole.splitlines():
            with suppress(RunError):  # a full disk cut it short: no round of the run's
                self._enter(parse_round(str(self._path), line, len(self._rounds)))

    def _enter(self, record: RoundRecord) -> None:
        if isinstance(record, TrainedRound):
            self._by_device = record.device_delay_by_phase_s
            record = record.without_devices()
        self._rounds.append(record)


# Where a run stands, as a person or a monitor asks for it. Knows names and numbers, no secret.


class DeviceStatus(Record):
    """A device in the round. `name` None: nobody has come for the number yet.

    `away_s`: since it left [s]; None: it is here, or was not since the server was started. Bytes
    are those of whole frames since then, `refused_adapters` those that were not merged.
    `delay_by_phase_s`: of the last round, None before the first.
    """

    name: str | None
    connected: bool
    away_s: float | None
    local_steps: int
    adapter_sent: bool
    uplink_bytes: int
    downlink_bytes: int
    refused_adapters: int
    delay_by_phase_s: Mapping[str, float] | None


class MemoryHeld(Record):
    """What devices make a server hold [bytes], and the most that they can."""

    now_bytes: int
    most_bytes: int


class ServerProcess(Record):
    """The server itself: since when, what memory it has, whom it refused, and what ended it.

    `resident_bytes` None: the system does not say. `failure` None: nothing did.
    """

    uptime_s: float
    resident_bytes: int | None
    held: MemoryHeld
    refused_connections: int
    failure: str | None


class RunStatus(Record):
    """A run now. `round`: the one in progress, since `round_s`; `missing_adapters`: those that it
    lacks to close, its deadline having passed; `payload_bytes`: sent and received since the server
    was started, by what they carry; `passes`: of the server since then, by the mini-batches that
    shared each, and `pass_mini_batches` their mean in the last round; `last`: the last finished
    round."""

    run: str
    title: str
    round: int
    rounds: int
    round_s: float
    deadline_s: float | None
    quorum: int
    missing_adapters: int
    finished: bool
    local_steps: int
    devices: tuple[DeviceStatus, ...]
    payload_bytes: dict[str, int]
    passes: dict[str, int]
    pass_mini_batches: float | None
    last: RoundRecord | None
    process: ServerProcess


@dataclass(frozen=True)
class Watched:
    """A run as it is looked at from outside; `run`: its name, `title`: what it trains on what."""

    run: str
    title: str
    plan: RunPlan
    session: ServerSession
    registry: DeviceRegistry
    history: History

    def status(self, away_s: Mapping[int, float], process: ServerProcess) -> RunStatus:
        """Where it stands. `away_s`: how long those devices have been away that left [s]."""
        session, terms = self.session, self.plan.terms[0]
        phases = dict(enumerate(self.history.by_device))
        return RunStatus(
            run=self.run,
            title=self.title,
            round=session.round - 1 if session.finished else session.round,
            rounds=terms.rounds,
            round_s=session.elapsed_s,
            deadline_s=self.plan.end.deadline_s,
            quorum=self.plan.end.quorum,
            finished=session.finished,
            local_steps=terms.local_steps,
            missing_adapters=session.missing_adapters,
            devices=tuple(
                self._device(number, own, away_s.get(number), phases.get(number))
                for number, own in enumerate(session.progress)
            ),
            payload_bytes=session.traffic.total(),
            passes={str(size): count for size, count in sorted(session.passes.total.items())},
            pass_mini_batches=session.passes.mean,
            last=self.history.last,
            process=process,
        )

    def _device(
        self,
        number: int,
        own: DeviceProgress,
        away_s: float | None,
        phases: Mapping[str, float] | None,
    ) -> DeviceStatus:
        traffic = self.session.traffic
        return DeviceStatus(
            name=self.registry.name(number),
            connected=own.connected,
            away_s=None if own.connected else away_s,
            local_steps=own.step,
            adapter_sent=own.done,
            uplink_bytes=traffic.uplink_bytes(number),
            downlink_bytes=traffic.downlink_bytes(number),
            refused_adapters=self.session.left_out[number],
            delay_by_phase_s=phases,
        )


# How far a networked run is, in a line for a log, and how long the rest of it will take.
#
# Knows numbers and a clock; rounds and devices are told.


@final
@dataclass
class RunPace:
    """A run of `rounds`, all devices' local steps of one being `steps`; `clock`: seconds, from any
    beginning. What is left is told from how far it got since the first line."""

    rounds: int
    steps: int
    clock: Callable[[], float]
    _first: tuple[float, float] | None = field(default=None, init=False)

    def line(self, number: int, devices: Sequence[DeviceProgress], elapsed_s: float) -> str:
        """`47 %: round 3 of 5, step 7 of 80, 8 of 8 devices connected, adapters of 0; 12.3 s so
        far, about 4 min 05 s left`. `elapsed_s`: of the round."""
        done = sum(own.step for own in devices)
        fraction = (number - 1 + min(done / self.steps, 1.0)) / self.rounds
        here = sum(own.connected for own in devices)
        sent = sum(own.done for own in devices)
        left_s = self._left_s(fraction)
        left = "" if left_s is None else f", about {roughly(left_s)} of the run left"
        return (
            f"{100 * fraction:.0f} %: round {number} of {self.rounds}, step {done} of"
            f" {self.steps}, {here} of {len(devices)} devices connected, {sent} adapters sent;"
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
