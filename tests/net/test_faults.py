"""Links that break, devices that vanish, a server that is killed: what is trained stays trained."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
import tiny
import torch

from cutlayer.config.job import prepare
from cutlayer.model.aggregate import fedavg
from cutlayer.net.compute import in_place
from cutlayer.net.device_driver import DeviceDriver
from cutlayer.net.frames import Position
from cutlayer.net.link import Link, LinkClosed
from cutlayer.net.measured import MeasuredRound
from cutlayer.net.messages import Activation, Adapter, Restarted, RoundClosed
from cutlayer.net.server_driver import Save
from cutlayer.net.server_session import Passed
from cutlayer.train.exchange import unpack_adapter
from cutlayer.train.round import initial_state
from cutlayer.train.setup import Setup
from cutlayer.train.state import RunState
from net.harness import Run, Site, same_adapters, trained
from net.harness import final as final_state

DEVICES = range(3)
ROUNDS = 2
SCHEDULES = 20


class KilledError(Exception):
    """A process that is no more."""


@final
class Chaos:
    """Draws whether a fault happens here, at most `most` times."""

    def __init__(self, seed: int, chance: float = 0.06, most: int = 12) -> None:
        self.rng = np.random.default_rng(seed)
        self._chance = chance
        self._left = most
        self.struck: Counter[str] = Counter()

    def strikes(self, what: str) -> bool:
        """Whether the fault `what` happens now."""
        if not self._left or self.rng.random() >= self._chance:
            return False
        self._left -= 1
        self.struck[what] += 1
        return True

    async def compute(self, what: str, work: Callable[[], Any]) -> Any:
        """Kill the process before the work, or after it and before its outcome gets anywhere."""
        await self.dawdle(200 if self.strikes(f"{what} slow") else 4)
        if self.strikes(f"{what} before"):
            raise KilledError(what)
        outcome = await in_place(work)
        if self.strikes(f"{what} after"):
            raise KilledError(what)
        return outcome

    async def dawdle(self, turns: int) -> None:
        """Take up to so many turns of the loop."""
        for _ in range(int(self.rng.integers(turns))):
            await asyncio.sleep(0)


@final
class BrokenLink(Link):
    """A device's end of a link that may be cut at any frame, before it arrives or after."""

    def __init__(self, inner: Link, cut: Callable[[str], bool]) -> None:
        self._inner = inner
        self._cut = cut

    @property
    def peer(self) -> str:
        return self._inner.peer

    async def send(self, frame: bytes) -> None:
        await self._cut_here("link, frame up lost")
        await self._inner.send(frame)
        await self._cut_here("link, frame up arrived")

    async def receive(self) -> bytes:
        frame = await self._inner.receive()
        await self._cut_here("link, frame down lost")
        return frame

    async def close(self, reason: str = "") -> None:
        await self._inner.close(reason)

    async def _cut_here(self, what: str) -> None:
        if self._cut(what):
            await self._inner.close("cut")
            raise LinkClosed("cut")


@pytest.fixture(scope="module")
def setup(vision: tuple[Path, Path]) -> Setup:
    """A codec that remembers, so that two ends which drift apart are found out."""
    config = tiny.config(
        *vision,
        codec="best",
        training={"rounds": ROUNDS, "local_steps": 2, "batch_size": 4, "micro_batches": 2},
    )
    return prepare(config).setup


@pytest.fixture(scope="module")
def expected(setup: Setup) -> RunState:
    return trained(setup, ROUNDS)[-1].state


async def _keep_serving(
    site: Site,
    compute: Callable[[Callable[[], Any]], Awaitable[Any]],
    save: Save,
    tick_s: float,
) -> None:
    """A server that is started again from its disk whenever it was killed."""
    while True:
        try:
            _, site.server = site.run.server(compute, save)
            ended = asyncio.create_task(site.server.finished())
            while not ended.done():
                for _ in range(8):
                    await asyncio.sleep(0)
                with suppress(LinkClosed):  # it has stopped; `ended` says why
                    await site.server.handle(Passed(tick_s))
            # those who did not hear of the end are told when they dial
            return ended.result()
        except KilledError:
            await site.hang_up()


async def _keep_taking_part(
    site: Site,
    number: int,
    compute: Callable[[Callable[[], Any]], Awaitable[Any]],
    wrap: Callable[[Link], Link],
    after_kill: Callable[[], None] = lambda: None,
) -> None:
    """A device that is started again from its disk whenever it was killed."""
    while True:
        device: DeviceDriver = site.run.device(number, compute)
        try:
            await device.take_part(partial(site.dial, number, wrap))
            return
        except KilledError:
            after_kill()


async def _play(run: Run, chaos: Chaos, tick_s: float = 0.0, forgets: bool = False) -> None:
    """A run under a schedule of faults."""
    site = Site(run)

    def save(state: RunState, measured: MeasuredRound | None) -> None:
        if chaos.strikes("server before checkpoint"):
            raise KilledError("server")
        run.save(state, measured)
        if chaos.strikes("server after checkpoint"):
            raise KilledError("server")

    def lose(number: int) -> None:
        if forgets and chaos.strikes("device's disk"):
            (run.folder / f"device-{number}.safetensors").unlink(missing_ok=True)

    devices = [
        _keep_taking_part(
            site,
            number,
            partial(chaos.compute, "device"),
            lambda link: BrokenLink(link, chaos.strikes),
            partial(lose, number),
        )
        for number in DEVICES
    ]
    server = _keep_serving(site, partial(chaos.compute, "server"), save, tick_s)
    await asyncio.gather(server, *devices)
    await site.hang_up()


async def _guarded(work: Awaitable[None]) -> None:
    """A run that hangs is a failure, not a wait."""
    async with asyncio.timeout(60):
        await work


def _check_journal(run: Run) -> None:
    """Of what went into a round, every micro-batch was trained once, in order."""
    for number in range(1, ROUNDS + 1):
        entries = run.archive.entries(number)
        made = run.archive.made(number)
        assert made is not None
        assert sum(isinstance(entry.message, RoundClosed) for entry in entries) == 1
        for device in DEVICES:
            own = [entry.message for entry in entries if entry.device == device]
            begun = [at for at, m in enumerate(own) if isinstance(m, Restarted)]
            own = own[begun[-1] + 1 :] if begun else own
            places = [m.position for m in own if isinstance(m, Activation)]
            every = [Position(number, step, micro) for step in range(2) for micro in range(2)]
            assert places == every[: len(places)]
            adapters = sum(isinstance(m, Adapter) for m in own)
            assert adapters == (device in made)
            assert device not in made or places == every


@pytest.mark.parametrize("frame", range(1, 17, 3))
def test_a_link_that_is_cut_changes_nothing(
    frame: int, setup: Setup, expected: RunState, tmp_path: Path
) -> None:
    """Device 1's link breaks once, at its n-th frame either way."""
    run = Run(setup, tmp_path, ROUNDS)
    count = 0

    def cut(what: str) -> bool:
        nonlocal count
        count += 1
        return count == frame

    async def go() -> None:
        site = Site(run)
        plain: Callable[[Link], Link] = lambda link: link  # noqa: E731
        broken: Callable[[Link], Link] = lambda link: BrokenLink(link, cut)  # noqa: E731
        await asyncio.gather(
            _keep_serving(site, in_place, run.save, 0.0),
            *(_keep_taking_part(site, n, in_place, broken if n == 1 else plain) for n in DEVICES),
        )
        await site.hang_up()

    asyncio.run(_guarded(go()))
    assert count > frame
    assert same_adapters(final_state(run), expected)


@pytest.mark.parametrize("call", [1, 2, 5, 8, 12, 13])
@pytest.mark.parametrize("before", [True, False])
def test_a_server_that_is_killed_goes_on_from_its_journal(
    call: int, before: bool, setup: Setup, expected: RunState, tmp_path: Path
) -> None:
    """Killed at its n-th computation (the 13th merges a round), before or after it was done."""
    run = Run(setup, tmp_path, ROUNDS)
    count = 0

    async def compute(work: Callable[[], Any]) -> Any:
        nonlocal count
        count += 1
        if count == call and before:
            raise KilledError
        outcome = work()
        if count == call:
            raise KilledError
        return outcome

    async def go() -> None:
        site = Site(run)
        await asyncio.gather(
            _keep_serving(site, compute, run.save, 0.0),
            *(_keep_taking_part(site, n, in_place, lambda link: link) for n in DEVICES),
        )
        await site.hang_up()

    asyncio.run(_guarded(go()))
    assert count > call
    assert same_adapters(final_state(run), expected)
    _check_journal(run)


def test_a_round_closes_without_a_device_that_never_returns(setup: Setup, tmp_path: Path) -> None:
    """Device 2 stops in the middle of round 1; the others' weights are renormalised."""
    run = Run(setup, tmp_path, ROUNDS, quorum=2, deadline_s=100.0)
    steps = 0

    async def stops(work: Callable[[], Any]) -> Any:
        nonlocal steps
        steps += 1
        if steps == 4:
            await asyncio.Event().wait()
        return work()

    async def go() -> None:
        site = Site(run)
        lost = asyncio.create_task(_keep_taking_part(site, 2, stops, lambda link: link))
        await asyncio.gather(
            _keep_serving(site, in_place, run.save, 2.0),
            *(_keep_taking_part(site, n, in_place, lambda link: link) for n in (0, 1)),
        )
        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)
        await site.hang_up()

    asyncio.run(_guarded(go()))
    _check_journal(run)
    state = initial_state(setup)
    for number in range(1, ROUNDS + 1):
        assert run.archive.made(number) == (0, 1)
    parameters = state.device.row.numel()
    rows = {
        entry.device: unpack_adapter(entry.message.packet, parameters)
        for entry in run.archive.entries(ROUNDS)
        if isinstance(entry.message, Adapter)
    }
    weights = [float(setup.devices[device].samples) for device in (0, 1)]
    merged = fedavg(torch.stack([rows[0], rows[1]]), weights)
    assert torch.equal(final_state(run).device.row, merged)
    assert same_adapters(final_state(run), run.recomputed())


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_whatever_happens_a_step_counts_once(
    seed: int, setup: Setup, expected: RunState, tmp_path: Path
) -> None:
    """Random faults. Where nobody may be left behind, the adapters are those of a calm run."""
    chaos = Chaos(seed)
    late, forgets = seed % 4 == 1, seed % 4 == 2
    run = Run(setup, tmp_path, ROUNDS, quorum=2, deadline_s=5.0 if late else None)
    asyncio.run(_guarded(_play(run, chaos, tick_s=1.0, forgets=forgets)))
    assert chaos.struck.total() > 0
    _check_journal(run)
    assert same_adapters(final_state(run), run.recomputed())
    if not late and not forgets:
        assert same_adapters(final_state(run), expected)
