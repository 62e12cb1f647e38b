"""Mini-batches that arrive together share a pass: each device's result is its own, a bad message is
its sender's, and a server killed anywhere comes to the same bits."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from cutlayer.jobs.prepare import prepare
from cutlayer.net.server.driver import ServerDriver
from cutlayer.net.wire.frames import Wire, device_limits
from cutlayer.net.wire.link import Compute, LinkClosed
from cutlayer.net.wire.messages import Activation, Gradient, Hello, Message
from cutlayer.rounds.batching import ServerBatch, ServerBatching
from cutlayer.training.state import Setup
from net.chaos import KilledError
from net.harness import Run, Site, final, play
from net.memory_link import memory_links
from net.playing import keep_serving, keep_taking_part
from net.recompute import final as adapters
from net.recompute import passes, relived, replayed, steps
from net.server.test_server_worker import HOSTILE, good

ARRIVALS = ServerBatching(ServerBatch.ARRIVALS)
# a pass waits until everybody is there, which no test has to wait for
TOGETHER = replace(ARRIVALS, coalesce_s=60.0)
DEVICES, ROUNDS = 3, 2


def make_setup(folders: tuple[Path, Path], codec: str) -> Setup:
    training = {"rounds": ROUNDS, "local_steps": 2, "batch_size": 4, "micro_batches": 2}
    config = tiny.config(*folders, codec=codec, training=training, devices={"count": DEVICES})
    return prepare(config).setup


@pytest.fixture(scope="module")
def setup(vision: tuple[Path, Path]) -> Setup:
    return make_setup(vision, "best")


@pytest.fixture(scope="module")
def plain(vision: tuple[Path, Path]) -> Setup:
    return make_setup(vision, "none")


def sizes(run: Run) -> list[int]:
    """Of the passes of all rounds, by the journals."""
    return [
        len(passed)
        for number in range(1, ROUNDS + 1)
        for passed in passes(run.archive.entries(number))
        if isinstance(passed[0].message, Activation)
    ]


async def dawdling(work: Callable[[], Any]) -> Any:
    """Computing takes long enough for all devices to send."""
    for _ in range(30):
        await asyncio.sleep(0)
    return work()


class Counting:
    """Computing that takes its time; the server is killed at its `place`-th computation or write,
    `before` it or after it."""

    def __init__(self, place: int = 0, before: bool = False) -> None:
        self.count = 0
        self._place = place
        self._before = before

    async def __call__(self, work: Callable[[], Any]) -> Any:
        self.count += 1
        strikes = self.count == self._place
        if strikes and self._before:
            raise KilledError
        found = await dawdling(work)
        if strikes:
            raise KilledError
        return found


async def played(run: Run, compute: Compute = dawdling) -> None:
    """A run without faults, whose server takes its time."""
    site = Site(run)
    async with asyncio.timeout(120):
        await asyncio.gather(
            keep_serving(site, compute),
            *(keep_taking_part(site, number) for number in range(DEVICES)),
        )
    await site.hang_up()


@pytest.mark.parametrize("folders", ["vision", "bert", "llama"])
def test_a_fleet_of_arrivals_comes_to_what_each_device_comes_to_alone(
    folders: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Texts of different lengths too, whose passes are padded."""
    plain = make_setup(request.getfixturevalue(folders), "none")
    alone = Run(plain, tmp_path / "alone", ROUNDS)
    asyncio.run(play(alone))
    # of any lengths: all devices' texts of a step are in one pass, or in a few
    together = Run(plain, tmp_path / "together", ROUNDS, batching=TOGETHER)
    asyncio.run(played(together))
    assert set(sizes(alone)) == {1}
    assert max(sizes(together)) == DEVICES
    assert sum(sizes(together)) == sum(sizes(alone))
    one, other = final(alone), final(together)
    for mine, theirs in ((one.device, other.device), (one.server, other.server)):
        # of all values: AdamW divides by gradients, which rounding moves where they are next to 0
        assert (mine.row - theirs.row).norm() <= 1e-5 * mine.row.norm()
    assert adapters(together).same(replayed(together))
    assert adapters(together).same(relived(together))


def test_nobody_waits_for_a_device_that_has_no_steps_left(plain: Setup, tmp_path: Path) -> None:
    """Nor for one whose probe waits itself: with a minute to wait for others, a run takes none."""
    run = Run(plain, tmp_path, ROUNDS, batching=TOGETHER)
    began_s = time.monotonic()
    asyncio.run(played(run))
    assert time.monotonic() - began_s < TOGETHER.coalesce_s


def test_a_batch_keeps_to_its_budget(plain: Setup, tmp_path: Path) -> None:
    """Two mini-batches of two samples of five tokens fit, three do not."""
    run = Run(plain, tmp_path, ROUNDS, batching=replace(TOGETHER, most_tokens=20))
    asyncio.run(played(run))
    assert max(sizes(run)) == 2
    assert adapters(run).same(relived(run))


@pytest.mark.parametrize(
    "places",
    [
        pytest.param(range(3, 5), id="some"),
        pytest.param(None, id="all", marks=pytest.mark.slow("a hundred runs")),
    ],
)
def test_a_server_killed_anywhere_comes_to_the_same_bits(
    places: range | None, setup: Setup, tmp_path: Path
) -> None:
    """Before or after it computes or writes: what comes of the run is what its journal says, pass
    by pass; both ends agree on every gradient, and no step is lost or trained twice."""
    if places is None:
        whole, compute = Run(setup, tmp_path / "whole", ROUNDS, batching=ARRIVALS), Counting()
        asyncio.run(played(whole, compute))
        places = range(1, compute.count + 1)
    for place in places:
        for before in (True, False):
            run = Run(setup, tmp_path / f"{place}-{before}", ROUNDS, batching=ARRIVALS)
            asyncio.run(played(run, Counting(place, before)))
            assert max(sizes(run)) > 1
            assert adapters(run).same(replayed(run)), (place, before)
            assert adapters(run).same(relived(run)), (place, before)
            done = steps(run)
            assert (done.lost, done.doubled) == (0, 0)


def test_one_bad_message_ends_its_own_link_alone(plain: Setup, tmp_path: Path) -> None:
    """The others of its batch get what they would have got."""
    run = Run(plain, tmp_path, ROUNDS, batching=ARRIVALS)

    async def go() -> list[list[Message]]:
        _, driver = run.server(dawdling)
        sent = (good(), HOSTILE["infinite"], good())
        return await asyncio.gather(
            *(_one_step(run, driver, device, message) for device, message in enumerate(sent))
        )

    heard = asyncio.run(go())
    assert [isinstance(own[-1], Gradient) for own in heard] == [True, False, True]
    assert [own.device for own in run.journal.entries(1)] == [0, 2]


def test_a_gradient_does_not_wait_for_the_adapters_step(plain: Setup, tmp_path: Path) -> None:
    run, answered = Run(plain, tmp_path, ROUNDS), asyncio.Event()

    async def compute(work: Callable[[], Any]) -> Any:
        if getattr(work, "__name__", "") == "step":
            await answered.wait()
        return work()

    async def go() -> None:
        _, driver = run.server(compute)
        heard = await _one_step(run, driver, 0, good())
        assert isinstance(heard[-1], Gradient)
        answered.set()

    asyncio.run(asyncio.wait_for(go(), 30))


def test_a_device_that_comes_while_others_wait_shares_their_pass(
    plain: Setup, tmp_path: Path
) -> None:
    """What it sends before its mini-batch is no part of a pass, so nobody waits on its account."""
    run = Run(plain, tmp_path, ROUNDS, batching=TOGETHER)

    async def go() -> None:
        _, driver = run.server()
        first, late, last = (_Caller(run, driver, device) for device in range(DEVICES))
        for caller in (first, last):
            await caller.send(Hello(0), answers=2)
        await first.send(good(), answers=0)
        for _ in range(30):  # the first one's mini-batch now waits for the last one's
            await asyncio.sleep(0)
        await late.send(Hello(0), answers=2)
        await late.send(good(), answers=0)
        await last.send(good(), answers=1)
        for caller in (first, late):
            await caller.send(None, answers=1)
        assert all(isinstance(own.heard[-1], Gradient) for own in (first, late, last))
        for caller in (first, late, last):
            await caller.leave()

    asyncio.run(asyncio.wait_for(go(), TOGETHER.coalesce_s / 2))
    assert [len(passed) for passed in passes(run.journal.entries(1))] == [DEVICES]


class _Caller:
    """A device by hand: `heard` is all that the server has said to it."""

    def __init__(self, run: Run, driver: ServerDriver, device: int) -> None:
        self._own, other = memory_links(f"device-{device}", "server")
        self._call = asyncio.create_task(driver.attend(device, other))
        self._wire = Wire(device_limits(run.bounds))
        self.heard: list[Message] = []

    async def send(self, message: Message | None, answers: int) -> None:
        """Say something, and wait for so many answers."""
        if message is not None:
            await self._own.send(self._wire.outgoing(message))
        for _ in range(answers):
            self.heard.append(self._wire.incoming(await self._own.receive()))

    async def leave(self) -> None:
        await self._own.close()
        self._call.add_done_callback(lambda done: done.exception())


async def _one_step(
    run: Run, driver: ServerDriver, device: int, message: Activation
) -> list[Message]:
    """What a device hears that sends one activation, and waits for its answer."""
    caller = _Caller(run, driver, device)
    with suppress(LinkClosed):
        await caller.send(Hello(0), answers=2)
        await caller.send(message, answers=1)
    await caller.leave()
    return caller.heard
