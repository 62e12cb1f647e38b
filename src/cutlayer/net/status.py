"""Where a run stands, as a person or a monitor asks for it. Knows names and numbers, no secret."""

from dataclasses import dataclass

from cutlayer.net.roster import Roster
from cutlayer.net.server_session import ServerSession


@dataclass(frozen=True)
class DeviceStatus:
    """A device in the round. `name` None: nobody has come for the number yet."""

    name: str | None
    connected: bool
    local_steps: int
    adapter_sent: bool


@dataclass(frozen=True)
class Held:
    """What devices make a server hold [bytes], and the most that they can."""

    now_bytes: int
    most_bytes: int


@dataclass(frozen=True)
class Status:
    """A run now. `round`: the one in progress; `payload_bytes`: sent and received since the server
    was started, by what they carry."""

    run: str
    round: int
    rounds: int
    finished: bool
    local_steps: int
    devices: tuple[DeviceStatus, ...]
    payload_bytes: dict[str, int]
    held: Held


def status_of(
    run: str, rounds: int, session: ServerSession, roster: Roster, steps: int, held: Held
) -> Status:
    """The status of a session of `rounds` rounds of `steps` local steps."""
    return Status(
        run=run,
        round=min(session.round, rounds),
        rounds=rounds,
        finished=session.finished,
        local_steps=steps,
        devices=tuple(
            DeviceStatus(roster.name(number), own.connected, own.steps, own.done)
            for number, own in enumerate(session.standings)
        ),
        payload_bytes=session.tally.total(),
        held=held,
    )
