"""A networked run on a port: links for its devices, time for its deadline, an end.

Knows what happens in which order; everything that happens is `net`'s.
"""

import asyncio
import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

from cutlayer.config.schema import Config
from cutlayer.files import alone, json_text, write_json
from cutlayer.jobs.check import as_run, changed_config, try_addresses
from cutlayer.jobs.network import NetJob, check_net, open_net, outline_of, resident_bytes
from cutlayer.jobs.prepare import Job, prepare, use_torch
from cutlayer.jobs.train import about, held_out, new_directory, overview
from cutlayer.logs import EVERY_S, Heartbeat, so_far
from cutlayer.net.identity.run_keys import RunKeys, read_keys
from cutlayer.net.operations.status import (
    History,
    MemoryHeld,
    RunPace,
    RunStatus,
    ServerProcess,
    Watched,
)
from cutlayer.net.operations.web import Operations
from cutlayer.net.server import events
from cutlayer.net.wire.link import in_thread
from cutlayer.net.wire.link_server import LinkServer, serve
from cutlayer.report.live_page import live_page
from cutlayer.report.run_page import REPORT, write_report
from cutlayer.training.records import Observer, Partition, RoundRecord
from cutlayer.training.run_directory import RunDirectory
from cutlayer.training.run_log import write_summary
from cutlayer.units import format_bytes

_LOG = logging.getLogger(__name__)
_TICK_S = 0.2
_LOCK = "server.lock"


@final
class _RoundRecordsInLog(Observer):
    """Rounds as lines of the log."""

    def round_begins(self, number: int, rounds: int) -> None:
        """Nothing."""

    def step_done(self, round_number: int, done: int, total: int) -> None:
        """Nothing: the round's line says enough."""

    def round_done(self, record: RoundRecord) -> None:
        """What came of it."""
        _LOG.info("round %d: %s", record.round, json_text(record.written()))


@dataclass(frozen=True)
class ListenAddresses:
    """Where a server listens, (host, port): for devices, and for its operators (None: nowhere)."""

    devices: tuple[str, int]
    operators: tuple[str, int] | None

    def check(self) -> None:
        """Raises RunError if somewhere it cannot listen."""
        addresses = {"listen": self.devices, "operators": self.operators}
        try_addresses(
            {thing: address for thing, address in addresses.items() if address is not None}
        )


def start(config: Config, output: Path, keys: Path, addresses: ListenAddresses) -> RunDirectory:
    """Serve a new run, in a new directory under `output`, until it ends or SIGTERM comes.

    Everything that can be wrong is found before the directory is made. Raises CutlayerError,
    OSError.
    """
    run_keys = read_keys(keys)
    addresses.check()
    config = as_run(config)
    job = _ready(config)
    check_net(job)
    return _serve_alone(job, new_directory(config, output), run_keys, addresses)


def resume(
    path: Path, keys: Path, addresses: ListenAddresses, changes: Mapping[str, Any] | None = None
) -> RunDirectory:
    """Go on with the run in `path` from the last step that its journal holds.

    `changes`: settings by dotted key, of those that may change. Raises as `start`.
    """
    directory, run_keys = RunDirectory.open(path), read_keys(keys)
    config = changed_config(path, changes or {})
    addresses.check()
    job = _ready(config)
    return _serve_alone(job, directory, run_keys, addresses)


def _ready(config: Config) -> Job:
    """Prepared; the log says what for, and that it goes on."""
    use_torch(config)
    with Heartbeat(so_far("getting ready")):
        job = prepare(config, dealt=False)
    for line in overview(job.config, job.prepared, job.setup, real=True):
        _LOG.info("%s", line)
    return job


def _serve_alone(
    job: Job, directory: RunDirectory, keys: RunKeys, addresses: ListenAddresses
) -> RunDirectory:
    """Two servers would write one journal."""
    taken = f"another server runs in {directory.path}: stop it first, or serve another run"
    with alone(directory.path / _LOCK, taken):
        _serve(job, directory, keys, addresses)
    return directory


def _serve(job: Job, directory: RunDirectory, keys: RunKeys, addresses: ListenAddresses) -> None:
    _LOG.info("run directory: %s", directory.path)
    with Heartbeat(so_far("evaluating, or replaying the journal")):
        net = open_net(job, directory, _RoundRecordsInLog(), in_thread)
    service = Service(net, keys, addresses.devices, addresses.operators)
    had_ended = net.session.finished
    if asyncio.run(_until_told(service)):
        if not (had_ended and (directory.path / REPORT).exists()):
            service.conclude()
        if net.log.stopped is not None:
            _LOG.info("%s", net.log.stopped)
        _LOG.info("the run has ended: %s", directory.path)
    else:
        _LOG.info("stopped: the run in %s can be resumed", directory.path)


async def _until_told(service: "Service") -> bool:
    """Serve until the end, or SIGTERM or SIGINT, which come to the main thread alone."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
    return await service.run(stop, lambda port: _LOG.info("listening on port %d", port))


@final
class Service:
    """The run `net` on `address` (host, port), for the devices that `keys` knows; what operators
    ask is answered on `operations` (None: nowhere). Rounds' deadlines are kept by `clock` [s]."""

    def __init__(
        self,
        net: NetJob,
        keys: RunKeys,
        address: tuple[str, int],
        operations: tuple[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._net = net
        self._clock = clock
        self._keys = keys
        self._address = address
        self._operations = operations
        self._watched = Watched(
            run=net.directory.path.name,
            title=_title(net.job),
            plan=net.plan,
            session=net.session,
            registry=net.registry,
            history=History(net.directory.path / "rounds.jsonl"),
        )
        self._began_s = time.monotonic()
        self._server: LinkServer | None = None
        self._failure: str | None = None

    async def run(self, stop: asyncio.Event, listening: Callable[[int], None]) -> bool:
        """Serve until the run ends or `stop` is set; whether it has ended.

        `listening` is told the port. A step that is being computed as `stop` is set is finished,
        and is in the journal. Raises what ended the run before its last round, OSError if the
        address is not to be had.
        """
        net = self._net
        most = format_bytes(net.memory.total)
        _LOG.info("memory for frames of devices is at most %s: %s", most, net.memory)
        server = await serve(
            self._address,
            self._keys,
            partial(net.driver.welcome, self._number_of),
            net.limits,
            outline_of(net.job),
        )
        self._server = server
        ticker = asyncio.create_task(self._tick())
        teller = asyncio.create_task(self._tell())
        page = Operations(live_page(), self.status, self._watched.history.after)
        try:
            if self._operations is not None:
                port = await page.open(*self._operations)
                _LOG.info("live page, /health, /status and /metrics on port %d", port)
            listening(server.port)
            await _first(net.driver.finished(), stop.wait())
            if net.session.finished:
                await self._farewell(stop)
        except Exception as error:
            self._failure = str(error)
            raise
        finally:
            # first of all: it waits for what is being computed
            await net.driver.stop()
            for task in (ticker, teller):
                task.cancel()
            await asyncio.gather(ticker, teller, return_exceptions=True)
            await server.stop()
            await page.close()
        return net.session.finished

    def status(self) -> RunStatus:
        """Where the run stands."""
        now_s = time.monotonic()
        process = ServerProcess(
            uptime_s=now_s - self._began_s,
            resident_bytes=resident_bytes(),
            held=MemoryHeld(now_bytes=self.held_bytes, most_bytes=self._net.memory.total),
            refused_connections=self._server.refusals if self._server is not None else 0,
            failure=self._failure,
        )
        away_s = {number: now_s - left_s for number, left_s in self._net.driver.left_s.items()}
        return self._watched.status(away_s, process)

    @property
    def held_bytes(self) -> int:
        """What devices make the server hold now [bytes], those of the system apart."""
        links = 0 if self._server is None else self._server.held_bytes
        return links + self._net.driver.held_bytes

    def conclude(self) -> None:
        """Write the summary and the report of a run that has ended."""
        net = self._net
        # of the devices' data, the server knows how many samples each says it has
        samples = tuple(net.worker.samples)
        counts = tuple((count,) for count in samples)
        partition = Partition(class_names=("samples",), counts=counts)
        write_json(net.directory.path / "partition.json", partition.written())
        own = f"machines of their own, {net.job.config.devices.base}"
        said = {
            **about(net.job),
            **held_out(net.job, net.directory, net.worker.shares),
            "clock": "measured",
            "samples_per_device": samples,
            "devices_on": own,
        }
        write_summary(net.log, said)
        write_report(net.directory.path)

    def _number_of(self, name: str) -> int | None:
        """Which device that is; None: the run has others, none of them revoked."""
        number = self._net.registry.number(name)
        if number is not None:
            return number
        return self._net.registry.succeed(name, self._keys.certificates().gone)

    async def _tick(self) -> None:
        """Let the session know what time has passed; an error ends the run through the driver."""
        with contextlib.suppress(Exception):
            last_s = self._clock()
            while True:
                now_s = self._clock()
                await self._net.driver.handle(events.Tick(now_s - last_s))
                last_s = now_s
                await asyncio.sleep(_TICK_S)

    async def _tell(self) -> None:
        """Say now and then how far the round is."""
        session, terms = self._net.session, self._net.plan.terms
        steps = sum(own.local_steps for own in terms)
        pace = RunPace(terms[0].rounds, steps, time.monotonic)
        while True:
            await asyncio.sleep(EVERY_S)
            if session.finished:
                return
            _LOG.info("%s", pace.line(session.round, session.progress, session.elapsed_s))

    async def _farewell(self, stop: asyncio.Event) -> None:
        """Wait for devices that were away as the run ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._net.job.config.net.farewell_s):
                while self._net.session.untold and not stop.is_set():
                    await asyncio.sleep(_TICK_S)


def _title(job: Job) -> str:
    """What is trained on what; where it lies here is nobody's business."""
    config = job.config
    model, data = Path(config.model.name).name, Path(config.data.name).name
    return f"{job.setup.training.scheme.name}: {model} on {data}"


async def _first(*things: Coroutine[Any, Any, object]) -> None:
    """Wait for the first to end, and raise what it raises."""
    tasks = [asyncio.create_task(thing) for thing in things]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
