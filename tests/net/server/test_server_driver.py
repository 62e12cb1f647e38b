"""The server's loops: a device that does not read, and a disk that cannot be written."""

import asyncio
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny

from cutlayer.errors import ConfigError, ModelError, RunError
from cutlayer.jobs.network import check_scheme
from cutlayer.jobs.prepare import prepare
from cutlayer.net.server.events import Tick
from cutlayer.net.server.journal import Journal
from cutlayer.net.wire.frames import Wire, device_limits, journal_limits
from cutlayer.net.wire.link import LinkClosed, PacedLink, PatientLink
from cutlayer.net.wire.messages import Gradient, Hello, Welcome
from cutlayer.rounds.schemes import SCHEMES
from cutlayer.training.state import Setup
from net.ends import PATIENCE_S
from net.harness import Run, Site
from net.memory_link import memory_links
from net.server.test_server_worker import good


@pytest.fixture(scope="module")
def setup(vision: tuple[Path, Path]) -> Setup:
    return prepare(tiny.config(*vision, codec="none")).setup


def _name(work: Callable[[], Any]) -> str:
    """What a driver wants computed or written: `_trained`, `step`, `append`, ..."""
    function = work.func if isinstance(work, partial) else work
    return function.__name__


def test_a_device_that_does_not_read_is_hung_up_on(setup: Setup, tmp_path: Path) -> None:
    """It asks for its reply again and again: what waits for it is bounded by two queues."""
    run = Run(setup, tmp_path)
    _, driver = run.server()
    asked = 0

    async def go() -> None:
        nonlocal asked
        device, server = memory_links("device-0", "server", frames=2)
        call = asyncio.create_task(driver.attend(0, PatientLink(server, 0.01)))
        wire = Wire(device_limits(run.bounds))
        await device.send(wire.outgoing(Hello(0)))
        with pytest.raises(LinkClosed):
            while True:
                await device.send(wire.outgoing(good()))
                asked += 1
        await call

    asyncio.run(go())
    assert len(run.journal.entries(1)) == 1
    # two frames in the link, one at the writer, four in the outbox, and two on their way up; of
    # these, two were taken by welcome and round
    assert 0 < asked <= 2 + 1 + 4 + 2 + 1


def test_a_link_that_ends_ends_what_waits_for_its_share(setup: Setup, tmp_path: Path) -> None:
    run = Run(setup, tmp_path)
    waits = asyncio.Event()

    async def sleep(_: float) -> None:
        waits.set()
        await asyncio.Event().wait()

    async def go() -> None:
        _, driver = run.server()
        device, server = memory_links("device-0", "server")
        # a frame's first byte would take a second
        slow = PacedLink(server, lambda: 8.0, burst_bytes=1, sleep=sleep)
        call = asyncio.create_task(driver.attend(0, slow))
        await device.send(Wire(device_limits(run.bounds)).outgoing(Hello(0)))
        await waits.wait()
        await device.close()
        await asyncio.wait([call], timeout=PATIENCE_S)
        assert call.done() and call.exception() is None

    asyncio.run(go())


def test_a_new_connection_takes_the_place_of_an_old_one(setup: Setup, tmp_path: Path) -> None:
    """The old one is hung up on, and what it sends means nothing any more."""
    run = Run(setup, tmp_path)

    async def go() -> None:
        _, driver = run.server()
        old, old_server = memory_links("device-0", "server")
        new, new_server = memory_links("device-0", "server")
        calls = [asyncio.create_task(driver.attend(0, old_server))]
        old_wire, wire = (Wire(device_limits(run.bounds)) for _ in range(2))
        await old.send(old_wire.outgoing(Hello(0)))
        for _ in range(2):
            old_wire.incoming(await old.receive())
        calls.append(asyncio.create_task(driver.attend(0, new_server)))
        with pytest.raises(LinkClosed):
            await old.receive()
        await new.send(wire.outgoing(Hello(1)))
        assert isinstance(wire.incoming(await new.receive()), Welcome)
        await new.send(wire.outgoing(good()))
        assert isinstance(wire.incoming(await new.receive()), Gradient)
        await new.close()
        await asyncio.gather(*calls)

    asyncio.run(go())


def test_what_no_model_takes_ends_a_link_and_not_the_run(setup: Setup, tmp_path: Path) -> None:
    """Even where no reader of packets found it."""

    async def refuse(_: Callable[[], Any]) -> Any:
        raise ModelError("sizes that do not fit")

    run = Run(setup, tmp_path)
    _, driver = run.server(refuse)

    async def go() -> None:
        device, server = memory_links("device-0", "server")
        call = asyncio.create_task(driver.attend(0, server))
        wire = Wire(device_limits(run.bounds))
        await device.send(wire.outgoing(Hello(0)))
        await device.send(wire.outgoing(good()))
        with pytest.raises(LinkClosed):
            while True:
                await device.receive()
        await call
        await driver.handle(Tick(1.0))  # raises where a run has ended

    asyncio.run(go())


def test_a_step_that_is_cut_off_is_not_trained_again_beside_itself(
    setup: Setup, tmp_path: Path
) -> None:
    """Its thread cannot be stopped; the server after this one trains the step, once."""
    run, begun = Run(setup, tmp_path), asyncio.Event()

    async def slowly(_: Callable[[], Any]) -> Any:
        begun.set()
        await asyncio.Event().wait()

    async def go() -> None:
        _, driver = run.server(slowly)
        device, server = memory_links("device-0", "server")
        call = asyncio.create_task(driver.attend(0, server))
        wire = Wire(device_limits(run.bounds))
        await device.send(wire.outgoing(Hello(0)))
        await device.send(wire.outgoing(good()))
        await begun.wait()
        call.cancel()
        await asyncio.wait((call,))
        with pytest.raises(LinkClosed, match="has stopped"):
            await driver.handle(Tick(1.0))
        with pytest.raises(RunError, match="within a step"):
            await driver.finished()

    asyncio.run(go())


def test_a_disk_that_is_full_ends_the_run_before_a_reply_leaves(
    setup: Setup, tmp_path: Path
) -> None:
    run = Run(setup, tmp_path / "run")
    site = Site(run)
    _, site.server = run.server()
    shutil.rmtree(tmp_path / "run" / "archive")
    server = site.server

    async def go() -> None:
        own, other = memory_links("device-0", "server")
        call = asyncio.create_task(server.attend(0, other))
        wire = Wire(device_limits(run.bounds))
        await own.send(wire.outgoing(Hello(0)))
        (tmp_path / "run").rename(tmp_path / "gone")
        await own.send(wire.outgoing(good()))
        with pytest.raises(RunError, match="cannot write"):
            await server.finished()
        heard = []
        with pytest.raises(LinkClosed):
            while True:
                heard.append(await own.receive())
        assert len(heard) == 2  # the terms and the round, and no gradient
        await call

    asyncio.run(go())


def test_a_reply_waits_for_its_entry_in_the_journal_and_nothing_else_does(
    setup: Setup, tmp_path: Path
) -> None:
    """A disk that takes its time: the loop goes on meanwhile, and no reply leaves."""
    run = Run(setup, tmp_path)
    written = asyncio.Event()
    done: list[str] = []

    async def compute(work: Callable[[], Any]) -> Any:
        if _name(work) == "append":
            await written.wait()
        done.append(_name(work))
        return work()

    async def go() -> None:
        _, driver = run.server(compute)
        own, other = memory_links("device-0", "server")
        call = asyncio.create_task(driver.attend(0, other))
        wire = Wire(device_limits(run.bounds))
        await own.send(wire.outgoing(Hello(0)))
        for _ in range(2):
            wire.incoming(await own.receive())
        await own.send(wire.outgoing(good()))
        reply = asyncio.create_task(own.receive())
        for _ in range(100):
            await asyncio.sleep(0)
        assert done == ["_trained", "step"] and not reply.done()
        assert run.journal.entries(1) == []
        written.set()
        assert isinstance(wire.incoming(await reply), Gradient)
        assert len(run.journal.entries(1)) == 1
        await own.close()
        await call

    asyncio.run(go())


def test_computing_goes_on_during_a_write_and_what_it_makes_shares_the_next_one(
    setup: Setup, tmp_path: Path
) -> None:
    """Of three devices that send at once, two are trained while the first one's entry is written,
    and share a sync."""
    run, written = Run(setup, tmp_path), asyncio.Event()
    order: list[str] = []

    def sync(_: int) -> None:
        order.append(f"{len(run.journal.entries(1))} on disk")

    run.journal = Journal(tmp_path, journal_limits(run.bounds), sync)

    async def compute(work: Callable[[], Any]) -> Any:
        if _name(work) == "append":
            await written.wait()
            return work()
        for _ in range(3):  # so that the first entry's write begins
            await asyncio.sleep(0)
        order.append(_name(work))
        return work()

    async def go() -> None:
        _, driver = run.server(compute)
        calls, all_here = [], asyncio.Barrier(3)

        async def play(device: int) -> None:
            own, other = memory_links(f"device-{device}", "server")
            calls.append(asyncio.create_task(driver.attend(device, other)))
            wire = Wire(device_limits(run.bounds))
            await own.send(wire.outgoing(Hello(0)))
            for _ in range(2):  # welcome, and the round opens
                wire.incoming(await own.receive())
            await all_here.wait()
            await own.send(wire.outgoing(good()))
            assert isinstance(wire.incoming(await own.receive()), Gradient)
            order.append("reply")
            await own.close()

        replies = [asyncio.create_task(play(device)) for device in range(3)]
        for _ in range(100):
            await asyncio.sleep(0)
        assert order == ["_trained", "step"] * 3
        written.set()
        await asyncio.gather(*replies, *calls)

    asyncio.run(go())
    assert order[6:] == ["1 on disk", "3 on disk", *["reply"] * 3]


def test_a_round_short_of_its_quorum_is_told_and_in_the_end_given_up(
    setup: Setup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(setup, tmp_path, deadline_s=10.0, give_up_s=20.0)
    _, server = run.server()

    async def go() -> None:
        await server.handle(Tick(10.0))
        (warning,) = caplog.records
        assert warning.levelname == "WARNING" and "0 of the 3 adapters" in warning.message
        with pytest.raises(RunError, match="0 of the 3 adapters"):
            await server.handle(Tick(10.0))
        with pytest.raises(RunError, match="resume the run"):
            await server.finished()

    asyncio.run(go())
    # nothing was lost by it
    _, again = run.server()
    asyncio.run(again.handle(Tick(0.0)))


@pytest.mark.parametrize("name", list(SCHEMES))
def test_only_schemes_in_which_devices_train_adapters_at_once_are_played(name: str) -> None:
    if name in ("sft", "sft-uncompressed", "sft-frozen", "sft-cached"):
        check_scheme(SCHEMES[name])
    else:
        with pytest.raises(ConfigError, match=f"scheme {name} cannot run over a network"):
            check_scheme(SCHEMES[name])
