"""Rounds of many devices without their computations, beside bare gRPC streams of the same bytes.

    python benchmarks/load_steps.py server FOLDER | devices FOLDER PORTS FIRST COUNT

Both are processes of `load.py`'s, told what to do on standard input and answering there: one line
is one round of the kind it names.
"""

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from subprocess import PIPE
from typing import Any

import grpc.aio
import numpy as np
from transport import WANTED_BYTES, WHOLE, Site, answer, bare_channel, bare_server, name, question

from cutlayer.config.read import read_config
from cutlayer.jobs.network import open_net
from cutlayer.jobs.prepare import prepare
from cutlayer.jobs.train import new_directory
from cutlayer.net.device.driver import DeviceDriver, DeviceWatch, Ready, Stored
from cutlayer.net.identity.run_keys import read_keys
from cutlayer.net.server.driver import ServerDriver
from cutlayer.net.server.journal import Entry, Journal
from cutlayer.net.server.session import RunPlan, ServerSession
from cutlayer.net.server.timing import ServerWatch
from cutlayer.net.wire.frames import Bounds, journal_limits
from cutlayer.net.wire.link import ConnectionLimits, Link, in_place
from cutlayer.net.wire.link_server import serve
from cutlayer.net.wire.listener import LOOPBACK
from cutlayer.net.wire.messages import (
    Activation,
    Adapter,
    Gradient,
    Micro,
    Open,
    Outline,
    Position,
    Terms,
    Weight,
)
from cutlayer.net.wire.tls_link import connect
from cutlayer.rounds.batching import Waiting
from cutlayer.training.records import Silent


@dataclass(frozen=True)
class Sizes:
    """Payloads of a device's round [bytes], and its local steps, of one micro-batch each."""

    activation: int
    labels: int
    gradient: int
    adapter: int
    samples: int
    local_steps: int

    @property
    def bounds(self) -> Bounds:
        """Nothing longer comes."""
        return Bounds(
            activation_bytes=self.activation,
            labels_bytes=self.labels,
            gradient_bytes=self.gradient,
            adapter_bytes=self.adapter,
            samples=self.samples,
            tokens=1,
            width=1,
            steps=self.local_steps,
        )


class NullJournal:
    """Keeps nothing."""

    def append(self, round_number: int, entries: Sequence[Entry]) -> None:
        """Nothing."""

    def drop_before(self, round_number: int) -> None:
        """Nothing."""


class Rounds:
    """A server's run whose rounds begin when `play` is called, the first one apart."""

    def __init__(self, plan: RunPlan, sizes: Sizes, journal: Journal | NullJournal) -> None:
        worker = _ServerWorker(sizes)
        session = ServerSession(plan, worker.adapter)
        controller = _Controller(plan.shares)
        self._append, self._on_disk = journal.append, isinstance(journal, Journal)
        self.driver = ServerDriver(session, worker, journal, controller, self._save, self._compute)
        self._closed_s: asyncio.Queue[float] = asyncio.Queue()
        self._begin = asyncio.Event()
        self._saved = False

    async def first(self) -> None:
        """Wait until all devices have come and played a round."""
        await self._closed_s.get()

    async def play(self) -> float:
        """How long the next round takes [s]: from its opening to the last adapter."""
        began_s = time.monotonic()
        self._begin.set()
        return await self._closed_s.get() - began_s

    async def stop(self) -> None:
        """Handle nothing any more."""
        self._begin.set()  # who waits for it has its turn, and nobody else gets one
        await self.driver.stop()

    def _save(self, state: object, measured: object) -> bool:
        self._closed_s.put_nowait(time.monotonic())
        self._saved = True
        return False

    async def _compute(self, work: Callable[[], Any]) -> Any:
        """Here and now, but for a journal's writes; a round that has closed waits."""
        if isinstance(work, partial) and work.func == self._append and self._on_disk:
            return await asyncio.to_thread(work)
        found = work()
        if self._saved:
            self._saved = False
            await self._begin.wait()
            self._begin.clear()
        return found


def null_device(sizes: Sizes) -> DeviceDriver:
    """A device's sessions."""
    worker = _DeviceWorker(sizes)

    def prepare(terms: Terms) -> Ready:
        return Ready(terms, worker, sizes.bounds, "no samples")

    return DeviceDriver(_Store(), prepare, _in_place, DeviceWatch(time.monotonic))


async def _in_place(work: Callable[[], Any]) -> Any:
    return work()


class _ServerWorker:
    def __init__(self, sizes: Sizes) -> None:
        self._gradient = bytes(sizes.gradient)
        self.state = None
        self.held_bytes = 0
        self.adapter, self.whole_adapter = bytes(sizes.adapter), b""
        self.own_adapters: tuple[bytes, ...] = ()

    def waiting(self, device: int, message: Activation) -> Waiting:
        return Waiting(device, 1, 1)

    def train(self, batch: Sequence[tuple[int, Activation]]) -> list[bytes]:
        return [self._gradient for _ in batch]

    def step(self) -> None:
        pass

    def store_adapter(self, device: int, message: Adapter) -> None:
        pass

    def renew(self, device: int) -> None:
        pass

    def merge(self, made: tuple[int, ...], measured: object, passed_s: float) -> tuple[int, ...]:
        return made

    def warnings(self, merged: tuple[int, ...]) -> list[str]:
        return []


class _Controller:
    """Notes times as a run does, and shares nothing out anew."""

    def __init__(self, shares: tuple[float, ...]) -> None:
        self.watch = ServerWatch(time.monotonic)
        self.shares = shares
        self.passed_s = 0.0

    def close(self) -> None:
        self.watch.close()

    def reopen(self, *_: object) -> tuple[float, ...]:
        return self.shares


class _DeviceWorker:
    def __init__(self, sizes: Sizes) -> None:
        self._packet, self._labels = bytes(sizes.activation), bytes(sizes.labels)
        self._adapter = bytes(sizes.adapter)
        self._samples = tuple(range(sizes.samples))

    def begin(self, message: Open) -> None:
        pass

    def asked(self, position: Position) -> Position:
        return position

    def forward(self, position: Position) -> Activation:
        return Activation(position, Micro(1.0, True), self._packet, self._labels, self._samples)

    def backward(self, message: Gradient, *, last: bool) -> None:
        pass

    def adapter(self, round_number: int) -> Adapter:
        return Adapter(round_number, Weight(1), self._adapter)

    def tensors(self) -> Mapping[str, object]:
        return {}


class _Store:
    def load(self) -> None:
        return None

    def save(self, stored: Stored) -> None:
        pass


# the main job's: 16 samples of 17 tokens of 384 values at 0.7 and 0.4 bit, 221,184 adapter values
SIZES = Sizes(
    activation=9_139, labels=16, gradient=5_222, adapter=884_736, samples=16, local_steps=10
)
BARE, LINK, SESSIONS, JOURNAL = "gRPC, mutual TLS", "our link", "sessions", "sessions, journal"
KINDS = (BARE, LINK, SESSIONS, JOURNAL)
LIMITS = ConnectionLimits(
    connections=1024, unproven=1024, unproven_by_address=1024, arrivals_burst=1024
)
_OUTLINE = Outline("causal-lm", ())
# not a kind: asks a process for the processor time that it has had
_CPU = "processor time"
_CLIENTS = 2
_FILES = 8192


@dataclass(frozen=True)
class StepRow:
    """Of one kind of connection: wall time a local step of one device, its round's opening and
    adapter shared out over them, and the processor time of the server's process; `x`, `cpu_x`: the
    medians of the ratios to bare gRPC's round before it."""

    name: str
    step_ms: float
    x: float
    cpu_ms: float
    cpu_x: float


def measured_steps(site: Site, devices: int, rounds: int) -> list[StepRow]:
    """All kinds, a round each in turn, in another order each time."""
    with _processes(site, devices) as (server, clients):
        seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        cpu: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for number in range(-1, rounds):  # one to warm up
            for turn in range(len(KINDS)):
                kind = KINDS[(number + turn) % len(KINDS)]
                players = clients if kind in (BARE, LINK) else [server]
                before_s = _round([server], _CPU)
                taken = _round(players, kind)
                if number >= 0:
                    seconds[kind].append(taken)
                    cpu[kind].append(_round([server], _CPU) - before_s)
    steps = devices * SIZES.local_steps
    return [
        StepRow(
            kind,
            step_ms=1e3 * median(seconds[kind]) / steps,
            x=median(a / b for a, b in zip(seconds[kind], seconds[BARE], strict=True)),
            cpu_ms=1e3 * median(cpu[kind]) / steps,
            cpu_x=median(a / b for a, b in zip(cpu[kind], cpu[BARE], strict=True)),
        )
        for kind in KINDS
    ]


Process = subprocess.Popen[str]


@contextmanager
def _processes(site: Site, devices: int) -> Iterator[tuple[Process, list[Process]]]:
    """The server and the devices, once all of them are connected; ended after it."""
    with ExitStack() as stack:
        server = stack.enter_context(_process("server", str(site.folder)))
        ports = _said(server)
        edges = np.linspace(0, devices, _CLIENTS + 1).astype(int)
        clients = [
            stack.enter_context(
                _process("devices", str(site.folder), ports, str(first), str(end - first))
            )
            for first, end in pairwise(edges)
        ]
        for process in (*clients, server):
            _said(process)
        yield server, clients


@contextmanager
def _process(*words: str) -> Iterator[Process]:
    """Told to end, by the end of its standard input, when it is not needed any more."""
    command = [sys.executable, __file__, *words]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()


def _said(process: Process) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "a process has ended; its error is above"
    return line


def _round(players: list[Process], kind: str) -> float:
    """How long the slowest of `players` takes for it [s]."""
    for process in players:
        assert process.stdin is not None
        print(kind, file=process.stdin, flush=True)
    return max(float(_said(process)) for process in players)


async def _answer(play: Mapping[str, Callable[[], Awaitable[float]]]) -> None:
    """Play what standard input says until it ends; say how long each took."""
    while kind := (await asyncio.to_thread(sys.stdin.readline)).strip():
        print(time.process_time() if kind == _CPU else await play[kind](), flush=True)


async def _server(site: Site) -> None:
    """All servers. Says their ports by kind, then that all devices have come."""
    keys = read_keys(site.keys)
    bare, _, secure = await bare_server(keys)
    ports, rounds, links = {BARE: secure}, _rounds(site), []
    sessions = {LINK: _answer_link, **{kind: _attend(one) for kind, one in rounds.items()}}
    for kind, session in sessions.items():
        link = await serve((LOOPBACK, 0), keys, session, LIMITS, _OUTLINE)
        links.append(link)
        ports[kind] = link.port
    print(json.dumps(ports), flush=True)
    for one in rounds.values():
        await one.first()
    print("ready", flush=True)
    await _answer({kind: one.play for kind, one in rounds.items()})
    await asyncio.gather(*(one.stop() for one in rounds.values()))
    await asyncio.gather(*(link.stop() for link in links))
    await bare.stop(grace=1.0)


def _rounds(site: Site) -> dict[str, Rounds]:
    """The runs that have sessions, on the terms of the site's configuration."""
    config = read_config(site.config)
    directory = new_directory(config, site.folder)
    plan = open_net(prepare(config), directory, Silent(), in_place).plan
    # no end of rounds
    terms = tuple(replace(one, rounds=2**31, local_steps=SIZES.local_steps) for one in plan.terms)
    plan = replace(plan, terms=terms, bounds=SIZES.bounds)
    journal = Journal(directory.path, journal_limits(SIZES.bounds))
    return {SESSIONS: Rounds(plan, SIZES, NullJournal()), JOURNAL: Rounds(plan, SIZES, journal)}


def _attend(rounds: Rounds) -> Callable[[Link], Awaitable[None]]:
    async def attend(link: Link) -> None:
        await rounds.driver.attend(int(link.peer.rpartition("-")[2]), link)

    return attend


async def _answer_link(link: Link) -> None:
    while True:  # until LinkClosed
        await link.send(answer(await link.receive()))


async def _devices(site: Site, ports: Mapping[str, int], numbers: range) -> None:
    """Connections of all kinds of these devices; those with sessions play when the server does."""
    keys = [site.identity(number) for number in numbers]
    assert [one.name for one in keys] == [name(number) for number in numbers]
    calls = []
    for one in keys:
        channel = bare_channel(ports[BARE], one)
        calls.append(channel.stream_stream(WHOLE)())
    address = f"{LOOPBACK}:{ports[LINK]}"
    links = [await connect(address, one, LIMITS) for one in keys]
    sessions = []
    for kind in (SESSIONS, JOURNAL):
        address = f"{LOOPBACK}:{ports[kind]}"
        for one in keys:
            dial = _once(address, one)
            sessions.append(asyncio.create_task(null_device(SIZES).take_part(dial)))
    play = {
        BARE: lambda: _all([_bare_round(call) for call in calls]),
        LINK: lambda: _all([_link_round(link) for link in links]),
    }
    await play[BARE]()
    print("ready", flush=True)
    await _answer(play)
    for task in sessions:
        task.cancel()
    for call in calls:
        call.cancel()
    ends = await asyncio.gather(*sessions, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends


def _once(address: str, keys: object) -> Callable[[], Awaitable[Link]]:
    async def dial() -> Link:
        return await connect(address, keys, LIMITS)

    return dial


async def _all(rounds: list[Awaitable[None]]) -> float:
    began_s = time.monotonic()
    await asyncio.gather(*rounds)
    return time.monotonic() - began_s


def _questions() -> Iterator[bytes]:
    """A device's frames of a round, as long as those with sessions are, up to some headers."""
    yield question(WANTED_BYTES, SIZES.adapter)
    step = question(SIZES.activation + SIZES.labels, SIZES.gradient)
    for _ in range(SIZES.local_steps):
        yield step
    yield question(SIZES.adapter, WANTED_BYTES)


async def _bare_round(call: grpc.aio.StreamStreamCall) -> None:
    for frame in _questions():
        await call.write(frame)
        await call.read()


async def _link_round(link: Link) -> None:
    for frame in _questions():
        await link.send(frame)
        await link.receive()


def main(role: str, folder: str, *words: str) -> None:
    """One process of either role."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES, most), most))
    site = Site(Path(folder))
    if role == "server":
        asyncio.run(_server(site))
        return
    ports, first, count = words
    asyncio.run(_devices(site, json.loads(ports), range(int(first), int(first) + int(count))))


if __name__ == "__main__":
    main(*sys.argv[1:])
