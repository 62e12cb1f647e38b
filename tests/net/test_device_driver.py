"""A device's loop: what it gives up, and what it tries again."""

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch

from cutlayer.config.job import prepare
from cutlayer.errors import RunError
from cutlayer.net.compute import in_place
from cutlayer.net.device_store import Stored
from cutlayer.net.frames import Position
from cutlayer.net.server_driver import ServerDriver
from cutlayer.net.server_session import ServerSession
from cutlayer.net.server_worker import ServerWorker
from cutlayer.train.exchange import pack_adapter
from cutlayer.train.round import initial_state
from cutlayer.train.setup import Setup
from net.ends import PATIENCE_S
from net.harness import Run, Site


@pytest.fixture(scope="module")
def setup(vision: tuple[Path, Path]) -> Setup:
    return prepare(tiny.config(*vision, codec="none")).setup


def test_the_state_of_another_run_is_named(setup: Setup, tmp_path: Path) -> None:
    run, site = Run(setup, tmp_path), Site(Run(setup, tmp_path / "server"))
    other, tensors = replace(run.terms(0), run="other"), {"x": torch.zeros(1)}
    run.store(0).save(Stored(Position(1), other, tensors))

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
    worker = ServerWorker(run.server_tools(), first)
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
