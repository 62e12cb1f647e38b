"""Where a run stands: what a session knows, put together with the rest."""

import json
from pathlib import Path

import pytest

from cutlayer.jobs.network import resident_bytes
from cutlayer.net.identity.run_keys import DeviceRegistry
from cutlayer.net.operations.status import History, MemoryHeld, ServerProcess, Watched
from cutlayer.net.server.events import Left, Tick
from cutlayer.net.wire.messages import Position
from net.server.test_server_session import Table

PROCESS = ServerProcess(
    uptime_s=60.0,
    resident_bytes=1 << 20,
    held=MemoryHeld(now_bytes=0, most_bytes=1),
    refused_connections=0,
    failure=None,
)


@pytest.fixture
def table() -> Table:
    return Table(devices=2, quorum=1, deadline_s=10.0)


@pytest.fixture
def watched(table: Table, tmp_path: Path) -> Watched:
    registry = DeviceRegistry(tmp_path / "devices.json", 2, ())
    registry.number("pi-0")
    return Watched(
        run="run-001",
        title="sft: tiny on pictures",
        plan=table.plan,
        session=table.session,
        registry=registry,
        history=History(tmp_path / "rounds.jsonl"),
    )


def test_before_anybody_came(watched: Watched) -> None:
    status = watched.status({}, PROCESS)
    assert (status.round, status.rounds, status.quorum, status.deadline_s) == (1, 2, 1, 10.0)
    assert [device.name for device in status.devices] == ["pi-0", None]
    assert not any(device.connected for device in status.devices)
    assert status.last is None and not status.finished
    json.dumps(status.written(), allow_nan=False)


def test_what_a_round_past_its_deadline_lacks(table: Table, watched: Watched) -> None:
    table.session.handle(Tick(9.0))
    assert watched.status({}, PROCESS).missing_adapters == 0
    table.session.handle(Tick(1.0))
    assert watched.status({}, PROCESS).missing_adapters == 1


def test_a_device_at_work_and_gone(table: Table, watched: Watched) -> None:
    table.join(0)
    table.step(0, Position(1, 0, 0), last=False)
    table.step(0, Position(1, 0, 1), last=True)
    table.session.handle(Tick(4.0))
    status = watched.status({0: 7.0}, PROCESS)
    assert status.round_s == 4.0
    # a device that is here again is not away, whenever it left before
    assert status.devices[0].connected and status.devices[0].away_s is None
    assert status.devices[0].local_steps == 1
    table.session.handle(Left(0))
    own = watched.status({0: 7.0}, PROCESS).devices[0]
    assert not own.connected and own.away_s == 7.0


def test_a_devices_bytes_are_those_of_all_its_frames(table: Table, watched: Watched) -> None:
    for device in (0, 1):
        table.join(device)
    table.step(0, Position(1, 0, 0), last=False)
    status = watched.status({}, PROCESS)
    one, other = status.devices
    assert one.uplink_bytes > other.uplink_bytes > 0
    assert one.downlink_bytes > other.downlink_bytes > 0
    crossed = sum(own.uplink_bytes + own.downlink_bytes for own in status.devices)
    assert crossed == sum(status.payload_bytes.values())


def test_memory_grows_with_what_is_held() -> None:
    before = resident_bytes()
    held = bytearray(b"x" * (64 << 20))
    after = resident_bytes()
    if before is None or after is None:
        pytest.skip("no /proc here")
    # other memory of the process may be given back meanwhile, not half as much
    assert after - before > len(held) // 2
