"""Many devices, one server, on one machine: does a run hold up, and does its memory stay?

    python benchmarks/load.py [--quick] [--json FILE]
    PYTHONPATH=tests python benchmarks/load.py steps [--devices N] [--json FILE]

See README.md here for what each figure answers. Needs `pip install '.[bench]'`. The
server is `cutlayer serve` in a process of its own; the devices are sessions of `cutlayer join`,
shared out over two processes of this file.

`steps`: the server's local steps a second, its devices' mini-batches one by one and together, over
links in memory that are those of the tests.
"""

import argparse
import asyncio
import json
import logging
import os
import platform
import re
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import torch
from load_steps import BARE, LINK, StepRow, measured_steps
from transport import Site, make_site, name

from cutlayer.codec.codec import EMPTY
from cutlayer.codec.raw import RawCodec, Targets, encode_targets
from cutlayer.jobs.join import join
from cutlayer.jobs.prepare import prepare
from cutlayer.net.device.driver import DeviceDriver, DeviceWatch, Ready, Stored
from cutlayer.net.wire.link import in_place, in_thread
from cutlayer.net.wire.messages import (
    Activation,
    Adapter,
    Gradient,
    Micro,
    Open,
    Position,
    Terms,
    Weight,
)
from cutlayer.rounds.batching import ServerBatch, ServerBatching
from cutlayer.training.adapter_rows import pack_adapter
from cutlayer.training.state import Setup
from cutlayer.units import KIB, MIB

if TYPE_CHECKING:
    from net.harness import Run

_COMMAND = "from cutlayer.cli.main import main; raise SystemExit(main())"
_SERVE = ("serve", "run.yaml", "--keys", "keys", "--output", "runs", "--listen", "127.0.0.1:0")
_CLIENTS = 2
# a round's line has a few numbers for each device
_LINE_BYTES = 16 * MIB
# of a device in a round: its opening, a probe and its echo, its adapter
_ROUND_FRAMES = 4
# the rounds in which devices arrive, and in which each side makes what it keeps
_SETTLING = 2
# memory is flat if its line changes by less than this part of it over all later rounds
_FLAT = 0.01
_GOAL = 1.3
_DEVICES = 200
# `steps`: its devices, a mini-batch, and a run's rounds and local steps
_BATCH_DEVICES = 8
_BATCH, _TOKENS, _WIDTH = 4, 5, 24
_ROUNDS, _STEPS = 2, 25
KINDS = {
    "alone": ServerBatching(),
    "arrivals": ServerBatching(ServerBatch.ARRIVALS),
    "arrivals, coalesce_ms 20": ServerBatching(ServerBatch.ARRIVALS, coalesce_s=0.02),
}


@dataclass(frozen=True)
class Point:
    """A round that has closed: how long it took, and the server's resident memory after it."""

    round: int
    seconds: float
    resident_bytes: int


@dataclass(frozen=True)
class Load:
    """What came of a run of so many devices. `errors`: whatever either end complained of."""

    devices: int
    local_steps: int
    points: tuple[Point, ...]
    errors: tuple[str, ...]

    @property
    def settled(self) -> tuple[Point, ...]:
        """The rounds in which nothing begins."""
        return self.points[_SETTLING:]

    @property
    def step_s(self) -> float:
        """Wall time a local step of one device, while all are at it: of the median round."""
        seconds = float(np.median([point.seconds for point in self.settled]))
        return seconds / (self.devices * self.local_steps)

    @property
    def frames_per_s(self) -> float:
        """Frames in and out of the server, as many as a run without errors has."""
        steps_per_frame = self.local_steps / (2 * self.local_steps + _ROUND_FRAMES)
        return 1 / (self.step_s * steps_per_frame)

    @property
    def slope_bytes(self) -> float:
        """By how much the server's memory grows a round: least squares."""
        rounds = [point.round for point in self.settled]
        resident = [point.resident_bytes for point in self.settled]
        return float(np.polyfit(rounds, resident, 1)[0]) if len(rounds) > 1 else 0.0

    @property
    def spread(self) -> float:
        """The most over the least memory."""
        resident = [point.resident_bytes for point in self.settled]
        return max(resident) / min(resident)

    @property
    def flat(self) -> bool:
        """Whether the server's memory stays."""
        change_bytes = abs(self.slope_bytes) * len(self.settled)
        return change_bytes <= _FLAT * self.settled[0].resident_bytes


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if there was an error or memory grew."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, help="(200; steps: 8)")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--local-steps", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="8 devices, 3 rounds: within 60 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure by name")
    parser.add_argument("--take-part", nargs=4, help=argparse.SUPPRESS)
    steps = parser.add_subparsers().add_parser("steps", help="one server's, in one process")
    steps.set_defaults(measure=_batches)
    steps.add_argument("--devices", type=int, default=argparse.SUPPRESS)
    steps.add_argument("--turns", type=int, default=5)
    steps.add_argument("--json", type=Path, metavar="FILE", default=argparse.SUPPRESS)
    parser.set_defaults(measure=_load)
    arguments = parser.parse_args(words)
    if arguments.take_part:
        _take_part(*arguments.take_part)
        return 0
    found: int = arguments.measure(arguments)
    return found


def _load(arguments: argparse.Namespace) -> int:
    """A run of many devices, and rounds without computations."""
    devices = _DEVICES if arguments.devices is None else arguments.devices
    devices, rounds = (8, 3) if arguments.quick else (devices, arguments.rounds)
    before = _busy()
    with tempfile.TemporaryDirectory() as folder:
        site = make_site(Path(folder), devices, rounds, arguments.local_steps)
        load = asyncio.run(_played(site, devices, arguments.local_steps))
        rows = measured_steps(site, devices, 2 if arguments.quick else 5)
    for line in load.errors[:20]:
        print(f"error: {line}")
    if len(load.points) < rounds:
        print(f"{len(load.points)} of {rounds} rounds closed")
        return 1
    _print(load)
    _print_steps(rows)
    print(f"{os.cpu_count()} processors, load average {before:.2f} before, {_busy():.2f} after")
    if arguments.json:
        arguments.json.write_text(_text(load, rows, before), encoding="utf-8")
    return int(bool(load.errors) or not load.flat)


async def _played(site: Site, devices: int, local_steps: int) -> Load:
    """The run, from its first connection to the end of all processes."""
    server = await _process(site, "-c", _COMMAND, *_SERVE, "--operators", "127.0.0.1:0")
    points: list[Point] = []
    complaints: list[str] = []
    clients: list[asyncio.Task[list[str]]] = []
    try:
        began = 0.0
        async for line in _lines(server):
            at, text = datetime.fromisoformat(line["time"]).timestamp(), line["message"]
            if port := re.match(r"listening on port (\d+)", text):
                began = at
                clients = _start_clients(site, devices, int(port[1]))
            elif (closed := re.match(r"round (\d+): ", text)) and began:
                points.append(Point(int(closed[1]), at - began, _resident_bytes(server.pid)))
                began = at
            elif line["level"] != "info" or _unwell(text):
                complaints.append(text)
        if await server.wait():
            complaints.append(f"the server ended with {server.returncode}")
        for found in await asyncio.gather(*clients):
            complaints += found
    finally:
        if server.returncode is None:
            server.kill()
    return Load(devices, local_steps, tuple(points), tuple(complaints))


def _start_clients(site: Site, devices: int, port: int) -> list[asyncio.Task[list[str]]]:
    """Processes with as many of the devices each."""
    edges = np.linspace(0, devices, _CLIENTS + 1).astype(int)
    return [
        asyncio.create_task(_client(site, port, int(first), int(end - first)))
        for first, end in pairwise(edges)
    ]


async def _client(site: Site, port: int, first: int, count: int) -> list[str]:
    """What sessions complained of, once they have all ended."""
    words = (__file__, "--take-part", str(site.folder), str(port), str(first), str(count))
    process = await _process(site, *words)
    try:
        said, shown = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        return [f"the devices from {first} on ended with {process.returncode}: {shown.decode()}"]
    found: list[str] = json.loads(said)
    return found


async def _process(site: Site, *words: str) -> Process:
    """A Python of its own, one thread for each tensor operation."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *words,
        cwd=site.folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        limit=_LINE_BYTES,
    )


async def _lines(server: Process) -> AsyncIterator[dict[str, str]]:
    """What the server logs."""
    assert server.stderr is not None
    while text := await server.stderr.readline():
        yield _line(text.decode())


def _line(text: str) -> dict[str, str]:
    try:
        line: dict[str, str] = json.loads(text)
    except ValueError:  # what Python itself says
        now = datetime.now().astimezone().isoformat()
        return {"time": now, "level": "error", "message": text.rstrip()}
    return line


def _unwell(text: str) -> bool:
    """Whether a line tells of a device that the server turned away."""
    return "refused" in text or ("hung up" in text and "the run has ended" not in text)


def _resident_bytes(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found, status
    return int(found[1]) * KIB


def _busy() -> float:
    """How many processes wanted a processor in the last minute."""
    return os.getloadavg()[0]


def _print(load: Load) -> None:
    print(f"{'round':>5}{'s':>8}{'steps/s':>9}{'server MiB':>12}")
    for point in load.points:
        rate = load.devices * load.local_steps / point.seconds
        print(f"{point.round:5}{point.seconds:8.2f}{rate:9.0f}{point.resident_bytes / MIB:12.1f}")
    print(
        f"\n{load.devices} devices, {len(load.points)} rounds, {len(load.errors)}"
        f" errors; {load.frames_per_s:.0f} frames/s, {1e3 * load.step_s:.2f} ms a local step"
    )
    print(
        f"server's memory after round {_SETTLING}: {load.slope_bytes / KIB:+.0f} KiB a round, the"
        f" most {load.spread:.3f} of the least; {'flat' if load.flat else 'not flat'} (a change of"
        f" {_FLAT:.0%} in all is)"
    )


def _print_steps(rows: Sequence[StepRow]) -> None:
    """Rounds without computations."""
    print(f"\n{'no computation':24}{'ms a step':>10}{'x':>7}{'server CPU ms':>15}{'x':>7}")
    for row in rows:
        print(f"{row.name:24}{row.step_ms:10.2f}{row.x:7.2f}{row.cpu_ms:15.2f}{row.cpu_x:7.2f}")
    found = next(row.x for row in rows if row.name == LINK)
    print(f"goal: our link in at most {_GOAL} times of {BARE}: {found:.2f}, ", end="")
    print("met" if found <= _GOAL else "missed")


def _text(load: Load, rows: Sequence[StepRow], before: float) -> str:
    about = {
        "python": platform.python_version(),
        "grpc": grpc.__version__,
        "torch": torch.__version__,
        "processors": os.cpu_count(),
        "load_average_before": before,
        "load_average_after": _busy(),
    }
    names = ("step_s", "frames_per_s", "slope_bytes", "spread", "flat")
    found: dict[str, Any] = {**asdict(load), **{name: getattr(load, name) for name in names}}
    steps = [asdict(row) for row in rows]
    return json.dumps({"about": about, "load": found, "steps": steps}, indent=1) + "\n"


class _Complaints(logging.Handler):
    """Warnings of the sessions, and connections that were lost."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self.connections = 0

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.connections += text.startswith("connected to")
        if record.levelno >= logging.WARNING:
            self.lines.append(text)


async def take_part(site: Site, port: int, numbers: range) -> list[str]:
    """All sessions at once; the errors with which they ended."""
    sessions = (join(site.joining(number, port), in_place) for number in numbers)
    ends = await asyncio.gather(*sessions, return_exceptions=True)
    return [
        f"{name(number)}: {end!r}"
        for number, end in zip(numbers, ends, strict=True)
        if end is not None
    ]


def _take_part(folder: str, port: str, first: str, count: str) -> None:
    """Play devices `first` and on; one line of JSON at the end: what went wrong."""
    complaints = _Complaints()
    logger = logging.getLogger("cutlayer")
    logger.setLevel(logging.INFO)
    logger.addHandler(complaints)
    numbers = range(int(first), int(first) + int(count))
    errors = asyncio.run(take_part(Site(Path(folder)), int(port), numbers))
    again = complaints.connections - len(numbers)
    if again:
        complaints.lines.append(f"{again} connections more than devices")
    print(json.dumps([*errors, *complaints.lines]), flush=True)


@dataclass(frozen=True)
class BatchRow:
    """A local step of one device while all are at it [ms], the median of runs; `together`:
    mini-batches a pass; `x`: steps a processor second over those of mini-batches alone."""

    name: str
    wall_ms: float
    cpu_ms: float
    together: float
    x: float


class _Worker:
    """A device that computes nothing: the same activation, and the adapter of round 0."""

    def __init__(self, setup: Setup, number: int) -> None:
        import tiny

        rng = np.random.default_rng(number)
        values = rng.standard_normal((_BATCH, _TOKENS, _WIDTH)).astype(np.float32)
        self._packet = RawCodec().encode(values, EMPTY, rng).packet
        self._labels = encode_targets(Targets(np.arange(_BATCH) % tiny.CLASSES), None, tiny.CLASSES)
        self._adapter = pack_adapter(setup.server.device_part.adapted.initial_row(0))

    def begin(self, message: Open) -> None:
        pass

    def forward(self, position: Position) -> Activation:
        samples = tuple(range(_BATCH))
        return Activation(position, Micro(1.0, True), self._packet, self._labels, samples)

    def backward(self, message: Gradient, *, last: bool) -> None:
        pass

    def adapter(self, round_number: int) -> Adapter:
        return Adapter(round_number, Weight(_BATCH), self._adapter)

    def tensors(self) -> Mapping[str, object]:
        return {}


class _Store:
    def load(self) -> None:
        return None

    def save(self, stored: Stored) -> None:
        pass


def measured_batches(folder: Path, devices: int, turns: int = 5) -> list[BatchRow]:
    """So many runs of each kind, in turn, with the sessions and the journal of real ones."""
    import tiny
    from net.harness import Run

    model, images = tiny.vision_model(folder / "model"), tiny.images(folder / "images")
    training = {"rounds": _ROUNDS, "local_steps": _STEPS, "batch_size": _BATCH}
    own = tiny.config(model, images, codec="none", training=training, devices={"count": devices})
    setup = prepare(own).setup
    wall: dict[str, list[float]] = {kind: [] for kind in KINDS}
    cpu: dict[str, list[float]] = {kind: [] for kind in KINDS}
    together = {}
    for turn in range(turns + 1):
        for kind, batching in KINDS.items():
            run = Run(setup, folder / f"{kind}-{turn}", _ROUNDS, devices, batching=batching)
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            mean = asyncio.run(_play(run, devices))
            if turn:  # the first warms up
                steps = devices * _ROUNDS * _STEPS
                cpu[kind].append((time.process_time() - began_cpu_s) / steps)
                wall[kind].append((time.perf_counter() - began_s) / steps)
                together[kind] = mean
    alone = cpu["alone"]
    return [
        BatchRow(
            name=kind,
            wall_ms=1e3 * median(wall[kind]),
            cpu_ms=1e3 * median(cpu[kind]),
            together=together[kind],
            x=median(one / own for one, own in zip(alone, cpu[kind], strict=True)),
        )
        for kind in wall
    ]


async def _play(run: "Run", devices: int) -> float:
    """A run to its end; mini-batches a pass in its last round."""
    from net.harness import Site as MemorySite

    site = MemorySite(run)
    session, site.server = run.server(in_thread, lambda state, measured: None)
    played = (_device(run, n).take_part(partial(site.dial, n)) for n in range(devices))
    await asyncio.gather(*played)
    await site.server.finished()
    await asyncio.gather(*site.calls)
    assert session.passes.mean is not None
    return session.passes.mean


def _device(run: "Run", number: int) -> DeviceDriver:
    worker = _Worker(run.setup, number)

    def ready(terms: Terms) -> Ready:
        return Ready(terms, worker, run.bounds, "no samples")

    return DeviceDriver(_Store(), ready, in_place, DeviceWatch(time.monotonic))


def _batches(arguments: argparse.Namespace) -> int:
    """Measure batches, print, write."""
    devices = _BATCH_DEVICES if arguments.devices is None else arguments.devices
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measured_batches(Path(folder), devices, arguments.turns)
    print(f"{devices} devices, {_BATCH} x {_TOKENS} tokens of {_WIDTH} values")
    print(f"{'server.batch':26}{'wall ms':>9}{'CPU ms':>9}{'a pass':>8}{'x':>7}")
    for row in rows:
        print(f"{row.name:26}{row.wall_ms:9.2f}{row.cpu_ms:9.2f}{row.together:8.2f}{row.x:7.2f}")
    if arguments.json:
        about = {"python": platform.python_version(), "processors": os.cpu_count()}
        found = {"about": about, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
