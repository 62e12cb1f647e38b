"""Two workers against one: the same rounds of 64 devices, equal to the bit, and what they hold.

    python benchmarks/engines.py [--devices N] [--json FILE]

See README.md here for what the figures answer. Needs `pip install '.[train]'`, and Linux, whose
/proc tells what each process has computed and holds. One torch thread a process.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import torch
import transformers

from cutlayer.config.schema import Config
from cutlayer.data.samples import write_arrays
from cutlayer.jobs.cohorts import playing
from cutlayer.jobs.prepare import Job, prepare, use_torch
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round
from cutlayer.training.state import RunState
from cutlayer.units import KIB, MIB

_CLASSES, _ROUNDS = 10, 2
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Played:
    """The second of two rounds: seconds by the wall, processor seconds of this process and of each
    worker, and of the memory that workers share what each is charged with, in all [MiB]."""

    workers: int
    wall_s: float
    driver_s: float
    worker_s: tuple[float, ...]
    shared_mib: float

    @property
    def path_s(self) -> float:
        """What no further processor would shorten: this process, and the worker that took
        longest."""
        return self.driver_s + max(self.worker_s)


def main(words: Sequence[str] | None = None) -> int:
    """Play, compare, print."""
    parser = argparse.ArgumentParser(description="two workers against one")
    parser.add_argument("--devices", type=int, default=64)
    parser.add_argument("--width", type=int, default=192, help="of the model, of six blocks")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), arguments.devices, arguments.width)
    text = json.dumps(found, indent=1)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    return 0


def measure(folder: Path, devices: int, width: int) -> dict[str, object]:
    """All figures. Raises AssertionError where results differ by a bit."""
    model, data = _model(folder / "model", width), _images(folder / "images", 16 * devices)
    config = _config(model, data, devices)
    use_torch(config)
    job = prepare(config)
    one, first = _played(job, config, 1)
    two, second = _played(job, config, 2)
    here = initial_state(job.setup)
    for _ in range(_ROUNDS):
        here = Round(job.setup, here).play().state
    assert _bits(here) == _bits(first) == _bits(second), "engines differ"
    weights = sum(part.adapted.bytes for part in job.setup.parts)
    return {
        "devices": devices,
        "cohorts": -(-devices // config.engine.cohort),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "equal to one process to the bit": True,
        "weights_mib": weights / MIB,
        "one": asdict(one),
        "two": asdict(two),
        "one over two, processor seconds of the longest path": one.path_s / two.path_s,
        "one over two, wall": one.wall_s / two.wall_s,
    }


def _played(job: Job, config: Config, workers: int) -> tuple[Played, RunState]:
    engine = {"name": "processes", "workers": workers, "cohort": config.engine.cohort}
    there = Config.model_validate({**dict(config), "engine": engine})
    with playing(there, job.setup) as play:
        state = Round(job.setup, initial_state(job.setup), None, play).play().state
        pids = [child.pid for child in active_children() if child.pid is not None]
        before = [_processor_s(pid) for pid in pids]
        driver_s, start_s = time.process_time(), time.monotonic()
        state = Round(job.setup, state, None, play).play().state
        wall_s, driver_s = time.monotonic() - start_s, time.process_time() - driver_s
        took = [_processor_s(pid) - was for pid, was in zip(pids, before, strict=True)]
        shared = sum(_shared_bytes(pid) for pid in pids)
    return Played(workers, wall_s, driver_s, tuple(took), shared / MIB), state


def _processor_s(pid: int) -> float:
    """What a process has computed so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _shared_bytes(pid: int) -> int:
    """A process's part of the pages of files in memory that it maps with others."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * KIB for line in lines if line.startswith("Pss_Shmem:"))


def _bits(state: RunState) -> list[bytes]:
    sides = state.device.tensors("device") | state.server.tensors("server")
    return [sides[name].contiguous().numpy().tobytes() for name in sorted(sides)]


def _model(folder: Path, width: int) -> Path:
    """A DINOv2 of six blocks, random weights."""
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=width, num_hidden_layers=6, num_attention_heads=width // 64, image_size=56
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    half = {"image_mean": 0.5, "image_std": 0.5}
    (folder / "preprocessor_config.json").write_text(json.dumps(half))
    return folder


def _images(folder: Path, samples: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (samples, 28, 28)).astype(np.uint8)
    split = pixels, np.arange(samples) % _CLASSES
    write_arrays(folder, split, split, tuple(map(str, range(_CLASSES))))
    return folder


def _config(model: Path, data: Path, devices: int) -> Config:
    return Config(
        model={"name": str(model), "cut": 2},
        data={"name": str(data), "train_samples": None, "test_samples": 16},
        partition="iid",
        devices={"count": devices},
        training={"rounds": _ROUNDS, "local_steps": 1, "batch_size": 16},
        threads=1,
    )


if __name__ == "__main__":
    raise SystemExit(main())
