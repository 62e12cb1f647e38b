"""A server that keeps activations, over links: the trainer's run, whoever is killed or away."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import tiny
import torch

from cutlayer.data.partition import BatchPlan
from cutlayer.data.samples import Subset
from cutlayer.jobs.prepare import prepare
from cutlayer.net.server.events import Tick
from cutlayer.net.wire.messages import Held
from cutlayer.rounds.batching import ServerBatch, ServerBatching
from cutlayer.training.round import RoundOutcome
from cutlayer.training.state import CacheLimits, Setup
from net.harness import Run, Site, final, play, same_adapters, trained
from net.recompute import passes

ROUNDS = 4
Folders = tuple[Path, Path]


def _setup(folders: Folders, **sections: object) -> Setup:
    """Two devices with samples of their own, which they number themselves; an epoch of 20 samples
    is two rounds and a half, or much less on the smaller device."""
    training = {"rounds": ROUNDS, "local_steps": 2, "batch_size": 4}
    usual = {"scheme": "sft-cached", "training": training, "devices": {"count": 2}}
    data = {"train_samples": 24, "test_samples": 8}
    config = tiny.config(*folders, **{**usual, "data": data, "codec": "best", **sections})
    setup = prepare(config).setup
    devices = []
    for device in setup.devices:
        own = Subset(device.train, np.asarray(device.plan.samples))
        plan = BatchPlan(np.arange(len(own)), 4, setup.training.seed, device.number)
        devices.append(replace(device, train=own, plan=plan))
    return replace(setup, devices=tuple(devices))


def _check(run: Run, outcomes: list[RoundOutcome]) -> None:
    """The trainer's adapters, and what was held in each round."""
    assert same_adapters(final(run), outcomes[-1].state)
    for name, value in outcomes[-1].state.server.optimizer.items():
        assert torch.equal(final(run).server.optimizer[name], value)
    assert [run.figures[n] for n in range(1, ROUNDS + 1)] == [own.cache for own in outcomes]


@pytest.mark.parametrize(
    ("folders", "sections"),
    [
        ("vision", {}),
        ("bert", {"server": {"batch": "alone"}}),
        ("llama", {"codec": "none"}),
        ("vision", {"training": {"local_steps": 5, "micro_batches": 3}}),
    ],
)
@pytest.mark.parametrize("room", [1.0, 0.5])
def test_a_run_over_links_is_the_trainers_run(
    folders: str,
    sections: dict[str, object],
    room: float,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """With room for all samples, and for half of them: mini-batches that are held in part."""
    training = {"rounds": ROUNDS, "local_steps": 3, "batch_size": 4}
    own = sections.get("training", {})
    assert isinstance(own, dict)
    sections = {**sections, "training": training | own}
    setup = _setup(request.getfixturevalue(folders), **sections)
    outcomes = trained(setup, ROUNDS)
    last = outcomes[-1].cache
    assert last is not None and last.hits
    if room < 1:
        limits = CacheLimits(int(room * last.held_bytes), 10**6)
        setup = replace(setup, server=replace(setup.server, cache=limits))
        outcomes = trained(setup, ROUNDS)
        assert any(own.cache and own.cache.hits and own.cache.misses for own in outcomes)
    run = Run(setup, tmp_path, ROUNDS, quorum=2)
    asyncio.run(guarded(play(run)))
    _check(run, outcomes)
    for number, outcome in enumerate(outcomes, start=1):
        expected = outcome.round_costs.bytes_by_payload()
        counted = run.crossed[number]
        for payload in ("activation", "labels"):
            assert counted.get(payload, 0) == expected.get(payload, 0)


Value = TypeVar("Value")


async def guarded(work: Awaitable[Value]) -> Value:
    """A run that hangs is a failure, not a wait."""
    async with asyncio.timeout(60):
        return await work


async def _killed_often(run: Run, every: int) -> int:
    """The server is killed whenever so many frames have come, and started from its disk."""
    site, kills = Site(run), 0
    session, site.server = run.server()
    devices = [
        asyncio.create_task(run.device(n).take_part(partial(site.dial, n)))
        for n in range(len(run.setup.devices))
    ]
    turns = 0
    while not all(task.done() for task in devices):
        await asyncio.sleep(0)
        turns += 1
        if turns % every == 0 and not session.finished:
            await site.hang_up()
            session, site.server = run.server()
            kills += 1
        elif turns % 7 == 0 and site.server is not None:
            await site.server.handle(Tick(0.1))
    await asyncio.gather(*devices)
    return kills


@pytest.mark.parametrize("every", [23, 41])
def test_a_server_that_is_killed_goes_on_to_the_same_bits(
    every: int, vision: Folders, tmp_path: Path
) -> None:
    """At any moment: while devices send, and while it trains by itself."""
    setup = _setup(vision)
    run = Run(setup, tmp_path, ROUNDS, quorum=2)
    assert asyncio.run(guarded(_killed_often(run, every))) > 0
    assert same_adapters(final(run), trained(setup, ROUNDS)[-1].state)


@pytest.mark.parametrize(("room", "every"), [(1.0, None), (1.0, 23), (0.5, None)])
def test_what_is_held_and_what_comes_share_passes(
    room: float, every: int | None, vision: Folders, tmp_path: Path
) -> None:
    """Of several devices, whether they send or not; each comes to what it comes to alone but for
    rounding, killed servers too."""
    setup = _setup(vision, codec="none")
    outcomes = trained(setup, ROUNDS)
    assert outcomes[-1].cache is not None
    if room < 1:
        limits = CacheLimits(int(room * outcomes[-1].cache.held_bytes), 10**6)
        setup = replace(setup, server=replace(setup.server, cache=limits))
        outcomes = trained(setup, ROUNDS)
    run = Run(setup, tmp_path, ROUNDS, quorum=2, batching=ServerBatching(ServerBatch.ARRIVALS))
    if every is None:
        asyncio.run(guarded(play(run)))
    else:
        assert asyncio.run(guarded(_killed_often(run, every))) > 0
    shared = [
        {type(entry.message) for entry in passed}
        for number in range(1, ROUNDS + 1)
        for passed in passes(run.archive.entries(number))
        if len({entry.device for entry in passed}) > 1
    ]
    assert room < 1 or any(Held in kinds for kinds in shared)
    own, expected = final(run).server.row, outcomes[-1].state.server.row
    # of all values: AdamW divides by gradients, which rounding moves where they are next to 0
    assert (own - expected).norm() <= 1e-5 * expected.norm()
    if every is None:
        assert [run.figures[n] for n in range(1, ROUNDS + 1)] == [each.cache for each in outcomes]


def test_a_device_that_is_away_does_not_stop_a_round_that_needs_nothing_of_it(
    vision: Folders, tmp_path: Path
) -> None:
    """It leaves when all of its samples are held; the server makes its rounds, and the run ends
    with the adapters of a run in which it stayed."""
    setup = _setup(vision, partition="iid", training={"rounds": ROUNDS, "local_steps": 3})
    outcomes = trained(setup, ROUNDS)
    assert [own.cache.misses for own in outcomes if own.cache] == [24, 0, 0, 0]
    run = Run(setup, tmp_path, ROUNDS, quorum=2)

    async def first_round_only() -> None:
        site = Site(run)
        session, site.server = run.server()
        devices = [
            asyncio.create_task(run.device(n).take_part(partial(site.dial, n))) for n in range(2)
        ]
        while session.round == 1:
            await asyncio.sleep(0)
        for task in devices:
            task.cancel()
        await asyncio.gather(*devices, return_exceptions=True)
        while not session.finished:
            assert site.server is not None
            await site.server.handle(Tick(0.1))
            await asyncio.sleep(0)
        await site.server.finished()
        await site.hang_up()

    asyncio.run(guarded(first_round_only()))
    _check(run, outcomes)
