"""A device's loop: what it gives up, and what it tries again."""

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch

from cutlayer.errors import RunError
from cutlayer.jobs.prepare import prepare
from cutlayer.net.device.driver import Stored
from cutlayer.net.server.driver import ServerDriver
from cutlayer.net.server.session import ServerSession
from cutlayer.net.wire.frames import Kind, kind_of
from cutlayer.net.wire.link import Link, LinkClosed, in_place
from cutlayer.net.wire.messages import Position
from cutlayer.training.exchange import pack_adapter
from cutlayer.training.round import initial_state
from cutlayer.training.state import Setup
from net.ends import PATIENCE_S
from net.harness import Run, Site


@pytest.fixture(scope="module")
def setup(vision: tuple[Path, Path]) -> Setup:
    return prepare(tiny.config(*vision, codec="none")).setup


def test_the_state_of_another_run_is_named(setup: Setup, tmp_path: Path) -> None:
    run, site = Run(setup, tmp_path), Site(Run(setup, tmp_path / "server"))
    other, tensors = replace(run.terms(0), run="other"), {"x": torch.zeros(1)}
    run.store(0).save(Stored(Position(1), other, tensors, "27 samples"))

    async def go() -> None:
        _, site.server = site.run.server()
        with pytest.raises(RunError, match=r"device-0\.safetensors \(run other\): delete that"):
            await run.device(0).take_part(partial(site.dial, 0))
        await site.hang_up()

    asyncio.run(go())


def test_a_device_whose_values_diverge_stops(setup: Setup, tmp_path: Path) -> None:
    """An adapter that is finite, of which nothing finite is computed."""
    run = Run(setup, tmp_path)
    first = initial_state(setup)
    adapter = pack_adapter(torch.full_like(first.device.row, 1e38))
    worker = run.server_worker(first)
    session = ServerSession(run.plan(), adapter)
    controller = run.controller(first)

    async def go() -> None:
        site = Site(run)
        site.server = ServerDriver(session, worker, run.journal, controller, run.save, in_place)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(RunError, match="the run diverges"):
                await run.device(0).take_part(partial(site.dial, 0))
        await site.hang_up()

    asyncio.run(go())


class Deaf(Link):
    """A link on which the first gradient is never heard."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def peer(self) -> str:
        return self._link.peer

    async def send(self, frame: bytes) -> None:
        await self._link.send(frame)

    async def receive(self) -> bytes:
        frame = await self._link.receive()
        if kind_of(frame) is Kind.GRADIENT:
            raise LinkClosed("the line is down")
        return frame

    async def close(self, reason: str = "") -> None:
        await self._link.close()


def test_a_device_whose_samples_changed_begins_its_round_anew(
    setup: Setup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server has trained its first step on the old ones; nobody answers on the new ones with
    its gradient, and the run ends."""
    run = Run(setup, tmp_path)
    own = setup.devices[0]
    few = replace(own, plan=replace(own.plan, samples=own.plan.samples[:2]))

    async def go() -> None:
        site = Site(run)
        session, site.server = run.server()

        async def once() -> Link:
            if not site.calls:
                return await site.dial(0, Deaf)
            raise RunError("no second time")

        with pytest.raises(RunError, match="no second time"):
            await run.device(0).take_part(once)
        assert session.progress[0].step == 1
        async with asyncio.timeout(PATIENCE_S):
            others = (run.device(n).take_part(partial(site.dial, n)) for n in (1, 2))
            await asyncio.gather(run.device(0, own=few).take_part(partial(site.dial, 0)), *others)
        await asyncio.gather(*site.calls)
        assert session.finished

    asyncio.run(go())
    assert "it had own, and has others; it restarts its round" in caplog.text
