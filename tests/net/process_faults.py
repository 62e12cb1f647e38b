"""Real processes on loopback under faults: `cutlayer serve` and `cutlayer join` with TLS, killed,
halted, cut off, and without room on their disks.

What the run came to is read from its directory and from its journals, each of which is kept by a
second name.
"""

import asyncio
import os
import signal
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import final

import tiny

from cutlayer.config.schema import Config
from cutlayer.jobs.prepare import Job, prepare
from cutlayer.net.identity.credentials import make_private_folder, write_device_keys
from cutlayer.training.run_directory import RunDirectory
from net.devices import names, own_images, write_config
from net.ends import LOOPBACK, Cable, enrolled, run_keys
from net.harness import Run
from net.playing import DEVICES, Calm, Outcome, outcome_of
from net.processes import Command
from net.schedules import Blow, Planned, Schedule

ROUNDS = 3
_PATIENCE_S = 120.0
_POLL_S = 0.002
_DISK_BYTES = 8 * 1024 * 1024
_LONGEST_HALT_S = 1.0
_MAY_PASS = 75


def can_mount() -> bool:
    """Whether this process may make file systems of its own."""
    with tempfile.TemporaryDirectory() as name:
        try:
            with _disk(Path(name)):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


def make_config(model: Path, images: Path) -> Config:
    return tiny.config(
        model,
        images,
        codec="best",
        devices={"count": DEVICES},
        training={"rounds": ROUNDS, "local_steps": 2, "batch_size": 4, "micro_batches": 2},
        net={"devices": names(DEVICES), "farewell_s": 5.0},
    )


def played(config: Config, folder: Path, schedule: Schedule, calm: Calm, disks: bool) -> Outcome:
    """Play a schedule to its end. `disks`: whether server and devices get file systems of their
    own, which can be filled."""
    rule = {"quorum": schedule.quorum, "deadline_s": schedule.deadline_s}
    config = config.model_copy(update={"net": config.net.model_copy(update=rule)})
    job = prepare(config)
    places = [folder / "server", *(folder / name for name in names(DEVICES))]
    with ExitStack() as stack:
        for place in places:
            place.mkdir(parents=True)
            if disks:
                stack.enter_context(_disk(place))
        run = Run(job.setup, folder / "server" / "check", ROUNDS)
        struck = asyncio.run(_Play(job, folder, schedule).play(run))
        (path,) = (folder / "server" / "runs").iterdir()
        run.directory = RunDirectory(path)
        return outcome_of(run, schedule, struck, calm)


@final
class _Keeper:
    """A command that is started again until it has done what it is for."""

    def __init__(self, start: Callable[[bool], Command]) -> None:
        self._start = start
        self.command: Command | None = None
        self.stays_away = False
        self.lacked_room = 0
        self.room = asyncio.Event()
        self.room.set()

    async def keep(self) -> None:
        again = False
        while True:
            self.command = self._start(again)
            again = True
            code = await self.command.ends()
            if code == 0 or self.stays_away:
                return
            if code != -signal.SIGKILL:
                said = self.command.text().splitlines()[-1]
                assert code == _MAY_PASS and "free some space" in said, self.command.text()
                assert "Traceback" not in self.command.text()
                self.lacked_room += 1
                await self.room.wait()

    def signal(self, number: signal.Signals) -> bool:
        """Whether there was somebody to hear it."""
        return self.command is not None and self.command.signal(number)

    def end(self) -> bool:
        """Kill it for good, halted or not; whether there was anything to kill."""
        self.stays_away = True
        self.signal(signal.SIGCONT)
        return self.signal(signal.SIGKILL)


@final
class _Play:
    """One run under a schedule."""

    def __init__(self, job: Job, folder: Path, schedule: Schedule) -> None:
        self._folder = folder
        self._schedule = schedule
        self._clocks = any(one.fault is Blow.CLOCKS for one in schedule.planned)
        self._port = _free_port()
        self._struck: Counter[str] = Counter()
        write_config(folder / "config.yaml", job.config)
        keys, classes = run_keys(folder / "keys"), tuple(job.prepared.data.class_names)
        for number, name in enumerate(names(DEVICES)):
            samples, chosen = job.prepared.data.train, job.prepared.parts[number]
            own_images(folder / f"data-{name}", samples, chosen, classes)
            make_private_folder(folder / name / "identity")
            write_device_keys(folder / name / "identity", enrolled(keys, name))

    async def play(self, run: Run) -> Counter[str]:
        """Until the server and all devices that return have ended; what happened."""
        async with asyncio.timeout(_PATIENCE_S), Cable(self._port) as cable:
            server = _Keeper(self._serve)
            devices = [_Keeper(self._joiner(name, cable)) for name in names(DEVICES)]
            running = [asyncio.create_task(one.keep()) for one in (server, *devices)]
            beside = [
                asyncio.create_task(self._keep_journals(run)),
                asyncio.create_task(self._strike(cable, server, devices)),
            ]
            try:
                await asyncio.gather(*running)
            finally:
                for task in (*running, *beside):
                    task.cancel()
                for one in (server, *devices):
                    one.end()
                await asyncio.gather(*running, return_exceptions=True)
                beside_ended = await asyncio.gather(*beside, return_exceptions=True)
        for ended in beside_ended:
            if isinstance(ended, Exception):
                raise ended
        return self._struck

    def _serve(self, again: bool) -> Command:
        runs = self._folder / "server" / "runs"
        new = ("config.yaml", "--output", str(runs))
        what = ("--resume", str(next(runs.iterdir()))) if again else new
        return self._command(
            "serve-log",
            "serve",
            *what,
            *("--keys", "keys", "--operators", f"{LOOPBACK}:0"),
            *("--listen", f"{LOOPBACK}:{self._port}"),
        )

    def _joiner(self, name: str, cable: Cable) -> Callable[[bool], Command]:
        def start(again: bool) -> Command:
            data, identity = f"data-{name}", f"{name}/identity"
            own = ("--data", data, "--identity", identity, "--threads", "1")
            return self._command(f"{name}-log", "join", cable.address, *own)

        return start

    def _command(self, name: str, *words: str) -> Command:
        return Command(self._folder, name, *words, clock_jumps=self._clocks)

    async def _keep_journals(self, run: Run) -> None:
        """Give each journal a second name, by which the server does not delete it."""
        while True:
            for journal in self._folder.glob("server/runs/*/round-*.journal"):
                with suppress(OSError):  # it has one, or there is no room at the moment
                    os.link(journal, run.folder / "archive" / journal.name)
            await asyncio.sleep(_POLL_S)

    async def _strike(self, cable: Cable, server: _Keeper, devices: list[_Keeper]) -> None:
        if self._clocks:
            self._struck[Blow.CLOCKS.value] += 1
        for planned in sorted(self._schedule.planned, key=lambda one: one.after):
            while cable.carried_bytes < planned.after:
                await asyncio.sleep(_POLL_S)
            number = int(planned.size * 1000) % DEVICES
            if await self._hit(planned, cable, server, devices[number], names(DEVICES)[number]):
                self._struck[planned.fault.value] += 1

    async def _hit(
        self, planned: Planned, cable: Cable, server: _Keeper, device: _Keeper, name: str
    ) -> bool:
        """Let it happen; whether it did."""
        match planned.fault:
            case Blow.SERVER_KILLED:
                return server.signal(signal.SIGKILL)
            case Blow.DEVICE_KILLED:
                return device.signal(signal.SIGKILL)
            case Blow.DEVICE_GONE:
                return device.end()
            case Blow.SERVER_HALTED:
                return await _halt(server, planned.size * _LONGEST_HALT_S)
            case Blow.DEVICE_HALTED:
                return await _halt(device, planned.size * _LONGEST_HALT_S)
            case Blow.CUT:
                await cable.cut_within()
                return True
            case Blow.SERVER_FULL:
                return await _fill(self._folder / "server", server)
            case Blow.DEVICE_FULL:
                return await _fill(self._folder / name, device)
            case _:
                return False


async def _halt(one: _Keeper, seconds: float) -> bool:
    """Whether there was anything to halt."""
    heard = one.signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    one.signal(signal.SIGCONT)
    return heard


async def _fill(disk: Path, one: _Keeper) -> bool:
    """Leave no room on a disk until its owner has ended because of it; whether it has."""
    before, junk = one.lacked_room, disk / "junk"
    one.room.clear()
    with suppress(OSError), junk.open("wb", buffering=0) as file:
        while True:
            file.write(b"0" * 4096)
    while one.lacked_room == before and one.command is not None and one.command.running:
        await asyncio.sleep(_POLL_S)
    # its keeper may not have seen the end yet
    for _ in range(100):
        await asyncio.sleep(_POLL_S)
        if one.lacked_room > before:
            break
    junk.unlink()
    one.room.set()
    return one.lacked_room > before


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """A small file system at `folder`."""
    make = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(folder)]
    subprocess.run(make, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((LOOPBACK, 0))
        return int(found.getsockname()[1])
