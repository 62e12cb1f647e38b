"""A device's loop: what it gives up, and what it tries again."""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file

from cutlayer.errors import RunError, StorageError
from cutlayer.jobs.prepare import prepare
from cutlayer.net.device.driver import DeviceDriver, DeviceStore, DeviceWatch, Ready, Stored
from cutlayer.net.device.worker import DeviceWorker
from cutlayer.net.server.driver import ServerDriver
from cutlayer.net.server.session import ServerSession
from cutlayer.net.wire.frames import Kind, decode_message, device_limits, kind_of
from cutlayer.net.wire.link import Link, LinkClosed, in_place, in_thread
from cutlayer.net.wire.messages import PIECE_BYTES, PartPiece, Position, Terms
from cutlayer.net.wire.part_files import PartCache, write_part
from cutlayer.training.adapter_rows import pack_adapter
from cutlayer.training.expected import initial_state
from cutlayer.training.state import RunState, Setup
from net.ends import PATIENCE_S
from net.harness import Run, Site, final, same_adapters, trained


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


def test_a_device_whose_values_diverge_waits_for_a_round_in_which_they_do_not(
    setup: Setup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An adapter that is finite, of which nothing finite is computed; then one that is trained."""
    run = Run(setup, tmp_path)
    first = initial_state(setup)
    site, dialled = Site(run), 0

    def opens(state: RunState, adapter: bytes) -> ServerSession:
        worker = run.server_worker(state)
        session = ServerSession(run.plan(), adapter, state.round + 1, {0, 1, 2})
        controller = run.controller(state)
        site.server = ServerDriver(session, worker, run.journal, controller, run.save, in_place)
        return session

    async def go() -> None:
        absurd = torch.full_like(first.device.row, 1e38)
        opens(first, pack_adapter(absurd))

        async def dial() -> Link:
            nonlocal dialled, session
            dialled += 1
            if dialled == 4:
                session = opens(replace(first, round=1), pack_adapter(first.device.row))
            return await site.dial(0)

        session: ServerSession | None = None
        device = asyncio.create_task(run.device(0).take_part(dial))
        async with asyncio.timeout(PATIENCE_S):
            while session is None or not session.progress[0].step:
                await asyncio.sleep(0)
                assert not device.done()
        device.cancel()
        await asyncio.gather(device, return_exceptions=True)
        await site.hang_up()

    asyncio.run(go())
    assert "waiting for the next round" in caplog.text


class Watching(Link):
    """A link that finds on disk, as a message leaves, the state that it builds on."""

    def __init__(self, link: Link, store: DeviceStore) -> None:
        self._link, self._store = link, store
        self.found: list[tuple[int, int]] = []

    @property
    def peer(self) -> str:
        return self._link.peer

    async def send(self, frame: bytes) -> None:
        if kind_of(frame) in (Kind.ACTIVATION, Kind.ADAPTER):
            stored = self._store.load()
            assert stored is not None
            self.found.append((stored.position.round, stored.position.step))
        await self._link.send(frame)

    async def receive(self) -> bytes:
        return await self._link.receive()

    async def close(self, reason: str = "") -> None:
        await self._link.close()


class Breaking(Link):
    """A link that breaks after a few frames have come, and keeps the pieces that did."""

    def __init__(self, link: Link, frames: int, pieces: list[bytes]) -> None:
        self._link, self._left, self._pieces = link, frames, pieces

    @property
    def peer(self) -> str:
        return self._link.peer

    async def send(self, frame: bytes) -> None:
        await self._link.send(frame)

    async def receive(self) -> bytes:
        if not self._left:
            await self._link.close("broken")
            raise LinkClosed("broken")
        self._left -= 1
        frame = await self._link.receive()
        if kind_of(frame) is Kind.PIECE:
            message, _ = decode_message(frame, device_limits(None))
            assert isinstance(message, PartPiece)
            self._pieces.append(message.data)
        return frame

    async def close(self, reason: str = "") -> None:
        await self._link.close()


@pytest.mark.parametrize("kill_after", [None, 1, 2])
def test_a_part_comes_once_over_links_that_break(
    kill_after: int | None, setup: Setup, vision: tuple[Path, Path], tmp_path: Path
) -> None:
    """Of each of the first links one piece, the device killed after some of them or not; no byte is
    taken twice, and the run ends as the trainer's."""
    tensors = {"large": torch.arange(2 * PIECE_BYTES // 3).int() * 40_503, "small": torch.ones(3)}
    part = write_part(tmp_path / "part", vision[0], tensors)
    run = Run(setup, tmp_path / "run", part=part)
    site, pieces, links = Site(run), list[bytes](), 0

    async def dial(number: int, last: int | None = None) -> Link:
        nonlocal links
        links += 1
        if last is not None and links > last:
            raise RunError("killed")
        frames = 2 if links <= 4 else 10**6
        return await site.dial(number, lambda link: Breaking(link, frames, pieces))

    def device(number: int) -> DeviceDriver:
        return run.device(number, parts=PartCache(tmp_path / f"cache-{number}"))

    async def go() -> None:
        _, site.server = run.server()
        if kill_after is not None:
            with pytest.raises(RunError, match="killed"):
                await device(0).take_part(partial(dial, 0, kill_after))
        others = (device(n).take_part(partial(site.dial, n)) for n in (1, 2))
        await asyncio.gather(device(0).take_part(partial(dial, 0)), *others)

    asyncio.run(go())
    assert len(pieces) > 3
    assert b"".join(pieces) == part.piece(0, part.size_bytes)
    found = load_file(PartCache(tmp_path / "cache-0").model(run.terms(0)) / "model.safetensors")
    assert torch.equal(found["large"], tensors["large"])
    assert same_adapters(final(run), trained(setup)[-1].state)


def alone(lock: threading.Lock, compute: Callable[..., Any]) -> Callable[..., Any]:
    """The same, by one thread at a time."""

    def computing(*given: Any, **named: Any) -> Any:
        with lock:
            return compute(*given, **named)

    return computing


def test_the_next_step_is_computed_while_a_state_is_written(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves when it is on disk; the run is the trainer's."""
    run = Run(setup, tmp_path)
    store, own, links = run.store(0), setup.devices[0], list[Watching]()
    computed, save = threading.Event(), store.save
    # all devices and the server are one process here, and have one model
    model = threading.Lock()

    async def in_turn(work: Callable[[], Any]) -> Any:
        with model:
            return work()

    def save_late(stored: Stored) -> None:
        if stored.position.step:
            assert computed.wait(PATIENCE_S), "the next step waits for this state"
        computed.clear()
        save(stored)

    def telling(compute: Callable[..., Any]) -> Callable[..., Any]:
        def told(*given: Any) -> Any:
            computed.set()
            return alone(model, compute)(*given)

        return told

    def prepare(terms: Terms) -> Ready:
        worker = DeviceWorker(setup.training, own)
        monkeypatch.setattr(worker, "forward", telling(worker.forward))
        monkeypatch.setattr(worker, "adapter", telling(worker.adapter))
        monkeypatch.setattr(worker, "backward", alone(model, worker.backward))
        return Ready(terms, worker, run.bounds, "own")

    monkeypatch.setattr(store, "save", save_late)

    async def go() -> None:
        site = Site(run)
        session, site.server = run.server(in_turn)

        def watched(link: Link) -> Link:
            links.append(Watching(link, run.store(0)))
            return links[-1]

        first = DeviceDriver(store, prepare, in_thread, DeviceWatch(time.monotonic))
        async with asyncio.timeout(PATIENCE_S):
            others = (run.device(n, in_turn).take_part(partial(site.dial, n)) for n in (1, 2))
            await asyncio.gather(first.take_part(partial(site.dial, 0, watched)), *others)
        await asyncio.gather(*site.calls)
        assert session.finished

    asyncio.run(go())
    steps = range(own.local_steps + 1)
    assert links[0].found == [(number, step) for number in (1, 2) for step in steps]
    assert same_adapters(final(run), trained(setup)[-1].state)


def test_a_state_that_cannot_be_written_ends_the_device(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its next step was computed already: nothing of it has left."""
    run = Run(setup, tmp_path)
    store, links = run.store(0), list[Watching]()
    save = store.save

    def save_once(stored: Stored) -> None:
        if stored.position.step == 1:
            raise StorageError("cannot write its state: the disk is full")
        save(stored)

    monkeypatch.setattr(store, "save", save_once)

    def prepare(terms: Terms) -> Ready:
        worker = DeviceWorker(setup.training, setup.devices[0])
        return Ready(terms, worker, run.bounds, "own")

    async def go() -> None:
        site = Site(run)
        _, site.server = run.server()

        def watched(link: Link) -> Link:
            links.append(Watching(link, store))
            return links[-1]

        device = DeviceDriver(store, prepare, in_place, DeviceWatch(time.monotonic))
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(StorageError, match="the disk is full"):
                await device.take_part(partial(site.dial, 0, watched))
        await site.hang_up()

    asyncio.run(go())
    assert links[0].found == [(1, 0)]


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


def test_a_device_that_is_told_to_leave_ends_its_step_and_goes_on_another_time(
    setup: Setup, tmp_path: Path
) -> None:
    run = Run(setup, tmp_path)
    done = 0

    async def go() -> None:
        site = Site(run)
        _, site.server = run.server()

        async def leaving(work: Callable[[], Any]) -> Any:
            nonlocal done
            done += 1
            if done == 7:  # within a step
                first.leave()
            return work()

        first = run.device(0, leaving)
        others = [
            asyncio.create_task(run.device(n).take_part(partial(site.dial, n))) for n in (1, 2)
        ]
        async with asyncio.timeout(PATIENCE_S):
            await first.take_part(partial(site.dial, 0))
            stored = run.store(0).load()
            assert not first.finished and stored is not None and stored.position.step > 0
            second = run.device(0)
            await second.take_part(partial(site.dial, 0))
            await asyncio.gather(*others)
        assert second.finished

    asyncio.run(go())
    assert same_adapters(final(run), trained(setup)[-1].state)


def test_a_device_that_waits_for_its_server_leaves_at_once(setup: Setup, tmp_path: Path) -> None:
    run = Run(setup, tmp_path)

    async def go() -> None:
        device = run.device(0)
        asyncio.get_running_loop().call_soon(device.leave)
        await device.take_part(partial(Site(run).dial, 0))
        assert not device.finished

    asyncio.run(go())
