"""The server's loops: a device that does not read, and a disk that cannot be written."""

import asyncio
import shutil
from pathlib import Path

import pytest
import tiny

from cutlayer.config.job import prepare
from cutlayer.errors import ConfigError, RunError
from cutlayer.net.compute import in_place
from cutlayer.net.limits import device_limits
from cutlayer.net.link import LinkClosed
from cutlayer.net.memory_link import memory_links
from cutlayer.net.messages import Gradient, Hello, Welcome
from cutlayer.net.scheme import check_scheme
from cutlayer.net.server_driver import ServerDriver
from cutlayer.net.server_session import ServerSession
from cutlayer.net.server_worker import ServerWorker
from cutlayer.net.wire import Wire
from cutlayer.schemes.all import SCHEMES
from cutlayer.train.round import initial_state
from cutlayer.train.setup import Setup
from net.harness import Run, Site
from net.test_server_worker import good


@pytest.fixture(scope="module")
def setup(vision: tuple[Path, Path]) -> Setup:
    return prepare(tiny.config(*vision, codec="none")).setup


def test_a_device_that_does_not_read_is_hung_up_on(setup: Setup, tmp_path: Path) -> None:
    """It asks for its reply again and again: what waits for it is bounded by two queues."""
    run = Run(setup, tmp_path)
    first = initial_state(setup)
    worker = ServerWorker(run.server_tools(), first)
    session = ServerSession(run.plan(), worker.adapter)
    driver = ServerDriver(
        session,
        worker,
        run.journal,
        run.controller(first),
        run.save,
        in_place,
        patience_s=0.01,
    )
    asked = 0

    async def go() -> None:
        nonlocal asked
        device, server = memory_links("device-0", "server", frames=2)
        call = asyncio.create_task(driver.attend(0, server))
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
        with pytest.raises(RunError):
            await call

    asyncio.run(go())


@pytest.mark.parametrize("name", list(SCHEMES))
def test_only_schemes_whose_devices_wait_for_each_answer_are_played(name: str) -> None:
    if name in ("sft", "sft-uncompressed"):
        check_scheme(SCHEMES[name])
    else:
        with pytest.raises(ConfigError, match=f"scheme {name} cannot be played"):
            check_scheme(SCHEMES[name])
