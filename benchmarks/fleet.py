"""A networked server's local steps a second, its devices' mini-batches one by one and together.

    PYTHONPATH=tests python benchmarks/fleet.py [--devices N] [--json FILE]

See README.md here for what each figure answers. Needs `pip install '.[train,net]'`.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import tiny
import torch
from net.harness import Run, Site

from cutlayer.codec.codec import EMPTY
from cutlayer.codec.raw import RawCodec, encode_targets
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
from cutlayer.training.exchange import pack_adapter
from cutlayer.training.state import Setup

_BATCH, _TOKENS, _WIDTH = 4, 5, 24
_ROUNDS, _STEPS = 2, 25
KINDS = {
    "alone": ServerBatching(),
    "arrivals": ServerBatching(ServerBatch.ARRIVALS),
    "arrivals, coalesce_ms 20": ServerBatching(ServerBatch.ARRIVALS, coalesce_s=0.02),
}


@dataclass(frozen=True)
class FleetRow:
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
        rng = np.random.default_rng(number)
        values = rng.standard_normal((_BATCH, _TOKENS, _WIDTH)).astype(np.float32)
        self._packet = RawCodec().encode(values, EMPTY, rng).packet
        self._labels = encode_targets(np.arange(_BATCH) % tiny.CLASSES, tiny.CLASSES)
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


def measured_rows(folder: Path, devices: int, turns: int = 5) -> list[FleetRow]:
    """So many runs of each kind, in turn, with the sessions and the journal of real ones."""
    model, images = tiny.vision_model(folder / "model"), tiny.images(folder / "images")
    training = {"rounds": _ROUNDS, "local_steps": _STEPS, "batch_size": _BATCH}
    own = tiny.config(model, images, codec="none", training=training, devices={"count": devices})
    setup = prepare(own).setup
    wall: dict[str, list[float]] = {name: [] for name in KINDS}
    cpu: dict[str, list[float]] = {name: [] for name in KINDS}
    together = {}
    for turn in range(turns + 1):
        for name, batching in KINDS.items():
            run = Run(setup, folder / f"{name}-{turn}", _ROUNDS, devices, batching=batching)
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            mean = asyncio.run(_play(run, devices))
            if turn:  # the first warms up
                steps = devices * _ROUNDS * _STEPS
                cpu[name].append((time.process_time() - began_cpu_s) / steps)
                wall[name].append((time.perf_counter() - began_s) / steps)
                together[name] = mean
    alone = cpu["alone"]
    return [
        FleetRow(
            name=name,
            wall_ms=1e3 * median(wall[name]),
            cpu_ms=1e3 * median(cpu[name]),
            together=together[name],
            x=median(one / own for one, own in zip(alone, cpu[name], strict=True)),
        )
        for name in wall
    ]


async def _play(run: Run, devices: int) -> float:
    """A run to its end; mini-batches a pass in its last round."""
    site = Site(run)
    session, site.server = run.server(in_thread, lambda state, measured: None)
    played = (_device(run, n).take_part(partial(site.dial, n)) for n in range(devices))
    await asyncio.gather(*played)
    await site.server.finished()
    await asyncio.gather(*site.calls)
    assert session.passes.mean is not None
    return session.passes.mean


def _device(run: Run, number: int) -> DeviceDriver:
    worker = _Worker(run.setup, number)

    def ready(terms: Terms) -> Ready:
        return Ready(terms, worker, run.bounds, "no samples")

    return DeviceDriver(_Store(), ready, in_place, DeviceWatch(time.monotonic))


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure by name")
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measured_rows(Path(folder), arguments.devices, arguments.turns)
    print(f"{arguments.devices} devices, {_BATCH} x {_TOKENS} tokens of {_WIDTH} values")
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
