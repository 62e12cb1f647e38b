"""Where a run stands, as a person or a monitor asks for it. Knows names and numbers, no secret."""

from collections.abc import Mapping
from dataclasses import dataclass

from cutlayer.net.history import History
from cutlayer.net.roster import Roster
from cutlayer.net.server_session import RunPlan, ServerSession
from cutlayer.net.standing import Standing
from cutlayer.train.records import Record, RoundRecord


class DeviceStatus(Record):
    """A device in the round. `name` None: nobody has come for the number yet.

    `away_s`: since it left [s]; None: it is here, or was not since the server was started. Bytes
    are those of whole frames since then. `delay_by_phase_s`: of the last round, None before the
    first.
    """

    name: str | None
    connected: bool
    away_s: float | None
    local_steps: int
    adapter_sent: bool
    uplink_bytes: int
    downlink_bytes: int
    delay_by_phase_s: Mapping[str, float] | None


class Held(Record):
    """What devices make a server hold [bytes], and the most that they can."""

    now_bytes: int
    most_bytes: int


class Process(Record):
    """The server itself: since when, what memory it has, whom it refused, and what ended it.

    `resident_bytes` None: the system does not say. `failure` None: nothing did.
    """

    uptime_s: float
    resident_bytes: int | None
    held: Held
    refused_connections: int
    failure: str | None


class Status(Record):
    """A run now. `round`: the one in progress, since `round_s`; `lacking`: the adapters that it
    lacks to close, its deadline having passed; `payload_bytes`: sent and received since the server
    was started, by what they carry; `last`: the last finished round."""

    run: str
    title: str
    round: int
    rounds: int
    round_s: float
    deadline_s: float | None
    quorum: int
    lacking: int
    finished: bool
    local_steps: int
    devices: tuple[DeviceStatus, ...]
    payload_bytes: dict[str, int]
    last: RoundRecord | None
    process: Process


@dataclass(frozen=True)
class Watched:
    """A run as it is looked at from outside; `run`: its name, `title`: what it trains on what."""

    run: str
    title: str
    plan: RunPlan
    session: ServerSession
    roster: Roster
    history: History

    def status(self, away_s: Mapping[int, float], process: Process) -> Status:
        """Where it stands. `away_s`: how long those devices have been away that left [s]."""
        session, terms = self.session, self.plan.terms[0]
        phases = dict(enumerate(self.history.by_device))
        return Status(
            run=self.run,
            title=self.title,
            round=min(session.round, terms.rounds),
            rounds=terms.rounds,
            round_s=session.elapsed_s,
            deadline_s=self.plan.end.deadline_s,
            quorum=self.plan.end.quorum,
            finished=session.finished,
            local_steps=terms.local_steps,
            lacking=session.lacking,
            devices=tuple(
                self._device(number, own, away_s.get(number), phases.get(number))
                for number, own in enumerate(session.standings)
            ),
            payload_bytes=session.tally.total(),
            last=self.history.last,
            process=process,
        )

    def _device(
        self, number: int, own: Standing, away_s: float | None, phases: Mapping[str, float] | None
    ) -> DeviceStatus:
        tally = self.session.tally
        return DeviceStatus(
            name=self.roster.name(number),
            connected=own.connected,
            away_s=None if own.connected else away_s,
            local_steps=own.steps,
            adapter_sent=own.done,
            uplink_bytes=tally.uplink_bytes(number),
            downlink_bytes=tally.downlink_bytes(number),
            delay_by_phase_s=phases,
        )
