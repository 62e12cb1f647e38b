"""A server and its devices in one process, over memory links, on the trainer's own setup."""

import asyncio
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from cutlayer.model.part_file import PartFile
from cutlayer.net.device.driver import DeviceDriver, DeviceStore, DeviceWatch, Ready
from cutlayer.net.device.worker import DeviceWorker
from cutlayer.net.server.driver import ALONE, Save, ServerDriver, no_part, recover
from cutlayer.net.server.held import HeldSamples
from cutlayer.net.server.journal import Journal
from cutlayer.net.server.session import RunPlan, ServerSession
from cutlayer.net.server.timing import Controller, MeasuredRound, RoundShape, ServerWatch
from cutlayer.net.server.worker import ServerWorker
from cutlayer.net.wire.frames import bounds_of, journal_limits
from cutlayer.net.wire.link import Compute, Link, in_place
from cutlayer.net.wire.messages import OwnSamples, Terms
from cutlayer.net.wire.part_files import PartCache
from cutlayer.rounds.batching import ServerBatching
from cutlayer.rounds.participants import RoundEnd
from cutlayer.spec import MiniBatch
from cutlayer.training.activation_cache import (
    ActivationCache,
    CacheFigures,
    open_cache,
    opened_cache,
)
from cutlayer.training.adapter_rows import pack_adapter
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round, RoundOutcome
from cutlayer.training.run_directory import RunDirectory
from cutlayer.training.state import DeviceSide, RunState, Setup
from net.memory_link import memory_links

MAX_TOKENS = 16


@dataclass
class Run:
    """All that a networked run is made of, and what its server has journaled."""

    setup: Setup
    folder: Path
    rounds: int = 2
    quorum: int = 3
    deadline_s: float | None = None
    give_up_s: float | None = None
    batching: ServerBatching = ALONE
    part: PartFile | None = None

    def __post_init__(self) -> None:
        setup = self.setup
        self.directory = RunDirectory(self.folder)
        # of each round that closed: how long it took, and the bytes that crossed by payload
        self.measured: dict[int, MeasuredRound | None] = {}
        self.crossed: dict[int, dict[str, int]] = {}
        self.session: ServerSession | None = None
        self.cache: ActivationCache | None = None
        self.figures: dict[int, CacheFigures | None] = {}
        width = setup.simulation.model.width
        largest = MiniBatch(setup.training.batch_size, MAX_TOKENS)
        parameters = setup.server.device_part.adapted.layout.parameters
        steps = setup.devices[0].local_steps * setup.training.micro_batches
        self.bounds = bounds_of(largest, width, parameters, steps)
        self.journal = Journal(self.folder, journal_limits(self.bounds))
        archive = self.folder / "archive"
        archive.mkdir(parents=True)
        self.archive = Journal(archive, journal_limits(self.bounds))

    def terms(self, device: int) -> Terms:
        training = self.setup.training
        return Terms(
            run="test",
            device=device,
            task=training.task,
            classes=training.classes,
            class_names=[],
            width=self.setup.simulation.model.width,
            tokens=MAX_TOKENS,
            part_sha256="0" * 64 if self.part is None else self.part.sha256,
            manifest_bytes=1 if self.part is None else len(self.part.manifest),
            uplink_bit_s=None,
            rounds=self.rounds,
            local_steps=self.setup.devices[device].local_steps,
            micro_batches=training.micro_batches,
            settings={},
            frozen_from=self.frozen_from,
            cached=training.scheme.cached,
        )

    @property
    def frozen_from(self) -> int | None:
        """The first round in which the devices' part is not trained."""
        training = self.setup.training
        frozen = (n for n in range(1, self.rounds + 1) if not training.scheme_of(n).trains_device)
        return next(frozen, None)

    def plan(self) -> RunPlan:
        count = len(self.setup.devices)
        return RunPlan(
            terms=tuple(self.terms(device) for device in range(count)),
            shares=(1.0 / count,) * count,
            end=RoundEnd(count, self.quorum, self.deadline_s, self.give_up_s),
            bounds=self.bounds,
            keeps=lambda number: (
                not (self.setup.training.merging.device or self.setup.server.evaluation.due(number))
            ),
        )

    def server_worker(self, state: RunState) -> ServerWorker:
        setup = self.setup
        steps = [device.local_steps for device in setup.devices]
        if self.cache is not None:  # a killed server's, whose file the system lets go
            self.cache.close()
        self.cache = open_cache(setup.training, setup.server, self.folder)
        held = None if self.cache is None else HeldSamples(setup.training, steps, self.cache)
        return ServerWorker(setup.training, setup.server, steps, self.bounds, state, held=held)

    def controller(self, state: RunState) -> Controller:
        setup = self.setup
        shape = RoundShape(
            scheme=setup.training.scheme,
            rules=setup.simulation.rules,
            steps=tuple(device.local_steps for device in setup.devices),
            micro_batches=setup.training.micro_batches,
            adapter_bytes=len(pack_adapter(state.device.of(0))),
        )
        watch = ServerWatch(time.monotonic)
        allocation, curves = setup.simulation.allocation, setup.simulation.channel.curves
        return Controller(watch, shape, allocation, curves, state, setup.training.scheme_of)

    def save(self, state: RunState, measured: MeasuredRound | None) -> bool:
        """As a server checkpoints; and keep what its journal says of the round."""
        self.keep_journal(state.round)
        self.directory.save(state)
        self.measured[state.round] = measured
        self.figures[state.round] = self.worker.cache
        if self.session is not None:
            self.crossed[state.round] = self.session.traffic.of(state.round)
        return False

    def keep_journal(self, round_number: int) -> None:
        """What the server forgets after its checkpoint, for the test."""
        name = f"round-{round_number:06d}.journal"
        shutil.copyfile(self.folder / name, self.folder / "archive" / name)

    def server(
        self, compute: Compute = in_place, save: Save | None = None
    ) -> tuple[ServerSession, ServerDriver]:
        """A server from where the disk stands."""
        save = save or self.save
        state = self.directory.load() or initial_state(self.setup)
        worker = self.server_worker(state)
        made = self.journal.made(state.round)
        missed = set() if made is None else set(range(len(self.setup.devices))) - set(made)
        own = worker.own_adapters
        self.worker = worker
        session = ServerSession(
            replace(self.plan(), asks=worker.asks),
            worker.adapter,
            state.round + 1,
            missed,
            own=own,
            whole=worker.whole_adapter,
        )
        self.session = session
        controller = self.controller(state)
        recover(session, worker, self.journal, controller, save)
        driver = ServerDriver(
            session,
            worker,
            self.journal,
            controller,
            save,
            compute,
            no_part if self.part is None else self.part.piece,
            batching=self.batching,
        )
        self.driver = driver
        return session, driver

    def device(
        self,
        number: int,
        compute: Compute = in_place,
        own: DeviceSide | None = None,
        parts: PartCache | None = None,
    ) -> DeviceDriver:
        """A device from where its store stands. `own`: another side than the run's."""

        def prepare(terms: Terms) -> Ready:
            worker = DeviceWorker(self.setup.training, own or self.setup.devices[number])
            digest = ("a" if own is None else "b") * 16
            told = OwnSamples(self.setup.devices[number].samples, digest) if terms.cached else None
            return Ready(terms, worker, self.bounds, "own" if own is None else "others", told)

        watch = DeviceWatch(time.monotonic)
        return DeviceDriver(self.store(number), prepare, compute, watch, parts)

    def store(self, number: int) -> DeviceStore:
        return DeviceStore(self.state_path(number))

    def state_path(self, number: int) -> Path:
        return self.folder / f"device-{number}.safetensors"


class Site:
    """A server that may be replaced, devices that dial it, and the tasks of both."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.server: ServerDriver | None = None
        self.calls: set[asyncio.Task[None]] = set()
        self._links: list[Link] = []

    async def dial(self, device: int, wrap: Callable[[Link], Link] = lambda link: link) -> Link:
        """A link to the server; while there is none, wait."""
        while self.server is None:
            await asyncio.sleep(0)
        own, other = memory_links(f"device-{device}", "server")
        call = asyncio.create_task(self.server.attend(device, other))
        self.calls.add(call)
        self._links.append(other)
        return wrap(own)

    async def hang_up(self, silent: bool = False) -> None:
        """End the server as a kill does: nothing more of it runs. `silent`: what it has sent and
        nobody has received is lost."""
        self.server = None
        if silent:
            await self._close_links()
        for call in self.calls:
            call.cancel()
        await asyncio.gather(*self.calls, return_exceptions=True)
        await self._close_links()  # as the system does, even for a task that never ran
        self.calls.clear()
        self._links.clear()

    async def _close_links(self) -> None:
        for link in self._links:
            await link.close("killed")


async def play(run: Run) -> ServerSession:
    """A run without faults."""
    site = Site(run)
    session, site.server = run.server()
    await asyncio.gather(
        *(run.device(n).take_part(partial(site.dial, n)) for n in range(len(run.setup.devices)))
    )
    await site.server.finished()
    await asyncio.gather(*site.calls)
    return session


def trained(setup: Setup, rounds: int = 2) -> list[RoundOutcome]:
    """What the trainer makes of the same setup, each device by itself."""
    setup = replace(setup, simulation=replace(setup.simulation, group=1))
    outcomes: list[RoundOutcome] = []
    state = initial_state(setup)
    with opened_cache(setup.training, setup.server, None) as cache:
        for _ in range(rounds):
            outcomes.append(Round(setup, state, cache).play())
            state = outcomes[-1].state
    return outcomes


def final(run: Run) -> RunState:
    """The last checkpoint."""
    state = run.directory.load()
    assert state is not None
    return state


def same_adapters(one: RunState, other: RunState) -> bool:
    """Whether both sides' adapters are equal bit for bit."""
    return (
        one.round == other.round
        and torch.equal(one.device.row, other.device.row)
        and torch.equal(one.server.row, other.server.row)
    )
