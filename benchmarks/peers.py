"""Federated learning with LoRA here (`fl-lora`) and in Flower's simulation: the same work, side by
side.

    python benchmarks/peers.py [--quick] [--seeds 0 1] [--venv DIR] [--json FILE]

See README.md here for what each figure answers. Flower gets an environment of its own in `--venv`,
made on the first run; torch, transformers and PEFT are those of this one in both. Needs
`pip install '.[train]' peft`, Linux, and a package index for the first run.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from site import getsitepackages
from statistics import mean
from uuid import uuid4

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file

import cutlayer
from cutlayer.jobs.prepare import prepare
from cutlayer.model.peft_format import save_adapter
from cutlayer.training.expected import initial_state
from cutlayer.training.records import Observer, RoundRecord

FLOWER = "flwr[simulation]==1.42.0"
_TAG = "PEERS_RUN"
_GOAL = 3.0
_EVERY_S = 0.25
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_MIB = 2**20


@dataclass(frozen=True)
class Work:
    """What both are to do: `devices`, all in every round, `local_steps` of `batch` samples each."""

    devices: int
    rounds: int
    local_steps: int = 2
    batch: int = 4
    image_size: int = 28
    samples: int = 16
    test_samples: int = 500
    learning_rate: float = 0.05
    cores: int = 2

    def config(self, seed: int) -> cutlayer.Config:
        """As cutlayer is told of it. Plain SGD: a Flower client starts each round afresh."""
        return cutlayer.Config(
            scheme={"name": "fl-lora"},
            model={"name": "dinov2-small"},
            data={
                "name": "fashion-mnist",
                "image_size": self.image_size,
                "train_samples": self.devices * self.samples,
                "test_samples": self.test_samples,
            },
            partition={"name": "iid"},
            training={
                "rounds": self.rounds,
                "local_steps": self.local_steps,
                "batch_size": self.batch,
            },
            optimizer={
                "name": "sgd",
                "momentum": 0.0,
                "learning_rate": self.learning_rate,
                "schedule": {"name": "decay", "factor": 1.0},
            },
            devices={"count": self.devices, "memory_mib": None},
            evaluation={"every": self.rounds},
            engine={"name": "processes", "workers": self.cores},
            seed=seed,
        )


@dataclass(frozen=True)
class Played:
    """One run: when its rounds began and ended, what all its processes took.

    `cpu_s`, `driver_mib`, `workers_mib`: at each of `times`; memory is each process's share of what
    it shares with others (PSS). `trained`: by name.
    """

    marks: dict[str, float]
    accuracy: float
    trained: dict[str, np.ndarray]
    began: float
    ended: float
    times: list[float] = field(repr=False)
    cpu_s: list[float] = field(repr=False)
    driver_mib: list[float] = field(repr=False)
    workers_mib: list[float] = field(repr=False)

    def steady(self, rounds: int) -> tuple[float, float]:
        """Seconds and processor seconds of rounds 2 to the last but one: all is loaded then, and
        none is evaluated."""
        first, last = self.marks["begin 2"], self.marks[f"end {rounds - 1}"]
        low, high = np.interp([first, last], self.times, self.cpu_s)
        return last - first, float(high - low)


# The work as files, for who knows nothing of cutlayer.


def write_work(work: Work, seed: int, folder: Path) -> None:
    """The base, the first adapter, pixels, labels, and the samples of every local step, as a run of
    this seed has them."""
    job = prepare(work.config(seed))
    setup, state = job.setup, initial_state(job.setup)
    below, above = (part.adapted.layout for part in setup.parts)
    named = {**below.named(state.device.row), **above.named(state.server.row)}
    task = job.prepared.task
    save_adapter(folder / "adapter", named, job.adapter, str(job.found.path), task)
    for name, samples in (("train", job.prepared.data.train), ("test", setup.server.test)):
        batch = setup.server.batches.make(samples, np.arange(len(samples.labels)))
        np.save(folder / f"{name}_pixels.npy", batch.inputs["pixel_values"])
        np.save(folder / f"{name}_labels.npy", batch.labels)
    order = [
        [
            [device.indices(number + 1, step) for step in range(work.local_steps)]
            for device in setup.devices
        ]
        for number in range(work.rounds)
    ]
    np.save(folder / "order.npy", np.array(order))
    np.save(folder / "counts.npy", np.array([device.samples for device in setup.devices]))
    told = {
        **asdict(work),
        "base": str(job.found.path),
        "classes": len(job.prepared.data.class_names),
    }
    (folder / "work.json").write_text(json.dumps(told))


# Each of both in a process of its own, watched from outside.


class _Marks(Observer):
    """When rounds began; a round ends as the next begins, its evaluation before that."""

    def __init__(self) -> None:
        self.marks: dict[str, float] = {}

    def round_begins(self, number: int, rounds: int) -> None:
        self.marks[f"begin {number}"] = time.time()

    def step_done(self, round_number: int, done: int, total: int) -> None:
        pass

    def round_done(self, record: RoundRecord) -> None:
        self.marks[f"end {record.round}"] = time.time()


def play_ours(folder: Path, seed: int) -> None:
    """The run in this process; its marks and accuracy go into the folder."""
    told = json.loads((folder / "work.json").read_text())
    work = Work(**{name: told[name] for name in Work.__dataclass_fields__})
    marks = _Marks()
    run = cutlayer.train(work.config(seed), output=folder / "runs", observer=marks)
    found = {
        "marks": marks.marks,
        "accuracy": {str(work.rounds): run.summary.accuracy_final},
        "adapter": str(run.adapter),
    }
    (folder / "ours.json").write_text(json.dumps(found))


def ours(folder: Path, seed: int) -> Played:
    """`fl-lora`, watched."""
    words = [sys.executable, __file__, "--play", str(folder), "--seeds", str(seed)]
    watched = _watched(words, folder / "ours.log", {})
    found = json.loads((folder / "ours.json").read_text())
    values = load_file(Path(found["adapter"]) / "adapter_model.safetensors")
    trained = {_plain(name): value for name, value in values.items()}
    return _played(found, trained, watched)


def flower(folder: Path, python: Path) -> Played:
    """Flower's simulation, watched."""
    words = [str(python), "-c", f"import peers_flower; peers_flower.main({str(folder)!r})"]
    environment = {
        "PYTHONPATH": str(Path(__file__).parent),
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "FLWR_HOME": str(folder / "flwr"),
        "OMP_NUM_THREADS": "1",
    }
    watched = _watched(words, folder / "flower.log", environment)
    with np.load(folder / "flower.npz") as values:
        trained = {_plain(name): values[name] for name in values.files}
    return _played(json.loads((folder / "flower.json").read_text()), trained, watched)


def _plain(name: str) -> str:
    """A name of PEFT's file or of its module, without what they differ in."""
    for part in ("base_model.model.", ".default", "modules_to_save."):
        name = name.replace(part, "")
    return name


def _played(found: dict, trained: dict[str, np.ndarray], watched: "_Watched") -> Played:
    last = max(found["accuracy"], key=int)
    return Played(found["marks"], found["accuracy"][last], trained, **vars(watched))


@dataclass
class _Watched:
    began: float
    ended: float
    times: list[float]
    cpu_s: list[float]
    driver_mib: list[float]
    workers_mib: list[float]


def _watched(words: Sequence[str], log: Path, environment: dict[str, str]) -> _Watched:
    """Run it, and look at every process that it starts, wherever that puts itself, by a variable in
    its environment."""
    tag = uuid4().hex
    own = {**os.environ, **environment, _TAG: tag}
    watched = _Watched(time.time(), 0.0, [], [], [], [])
    with log.open("w") as out:
        process = subprocess.Popen(words, env=own, stdout=out, stderr=subprocess.STDOUT)
        with _sampling(process.pid, tag, watched):
            code = process.wait()
    watched.ended = time.time()
    if code:
        raise SystemExit(f"{words[0]} ended with {code}:\n{log.read_text()[-4000:]}")
    return watched


@contextmanager
def _sampling(driver: int, tag: str, watched: _Watched) -> Iterator[None]:
    done = threading.Event()
    thread = threading.Thread(target=_sample, args=(driver, tag, watched, done))
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _sample(driver: int, tag: str, watched: _Watched, done: threading.Event) -> None:
    mine: dict[int, bool] = {}
    cpu: dict[int, float] = {}
    while not done.wait(_EVERY_S):
        memory = {True: 0.0, False: 0.0}
        for pid in [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]:
            try:
                if not mine.setdefault(pid, _has(pid, tag)):
                    continue
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                cpu[pid] = (int(fields[11]) + int(fields[12])) * _TICK_S
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except (OSError, ValueError):
                continue
            pss = next((line for line in rollup.splitlines() if line.startswith("Pss:")), "Pss: 0")
            memory[pid == driver] += int(pss.split()[1]) / 1024
        watched.times.append(time.time())
        watched.cpu_s.append(sum(cpu.values()))
        watched.driver_mib.append(memory[True])
        watched.workers_mib.append(memory[False])


def _has(pid: int, tag: str) -> bool:
    return f"{_TAG}={tag}".encode() in Path(f"/proc/{pid}/environ").read_bytes()


def environment(folder: Path) -> Path:
    """The Python of an environment with Flower, made if it is not there; what it does not bring
    itself, torch above all, is this environment's."""
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", FLOWER], check=True)
        (own,) = (folder / "lib").glob("python*/site-packages")
        (own / "beside.pth").write_text("\n".join(getsitepackages()) + "\n")
        (folder / "ready").touch()
    return python


# The figures.


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="8 devices, 3 rounds, one seed")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--venv", type=Path, default=Path(tempfile.gettempdir()) / "peers-flower")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure by name")
    parser.add_argument("--play", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.play is not None:
        play_ours(arguments.play, arguments.seeds[0])
        return 0
    python = environment(arguments.venv.resolve())
    work = Work(devices=8, rounds=3) if arguments.quick else Work(devices=64, rounds=5)
    pairs: list[tuple[Played, Played]] = []
    for number, seed in enumerate(arguments.seeds[: 1 if arguments.quick else None]):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_work(work, seed, folder)
            # one after the other, and the other one first in every second pair
            both = {"ours": lambda: ours(folder, seed), "flower": lambda: flower(folder, python)}  # noqa: B023
            done = {key: both[key]() for key in list(both)[:: -1 if number % 2 else 1]}
            pairs.append((done["ours"], done["flower"]))
    figures = [_figures(work, pair) for pair in zip(*pairs, strict=True)]
    apart = [_apart(*pair) for pair in pairs]
    ratio = figures[0]["devices_per_s"] / figures[1]["devices_per_s"]
    _print(work, figures, apart, ratio)
    if arguments.json:
        told = {"work": asdict(work), "ours": figures[0], "flower": figures[1], "apart": apart}
        arguments.json.write_text(json.dumps({**told, "ratio": ratio}, indent=1) + "\n")
    same = math.isclose(figures[0]["accuracy"], figures[1]["accuracy"], abs_tol=_noise(work, pairs))
    return 0 if ratio >= _GOAL and same else 1


def _figures(work: Work, runs: Sequence[Played]) -> dict[str, float]:
    """Means over seeds; memory: the largest."""
    turns = work.devices * (work.rounds - 2)
    wall, cpu = zip(*(run.steady(work.rounds) for run in runs), strict=True)
    return {
        "devices_per_s": turns / mean(wall),
        "devices_per_cpu_s": turns / mean(cpu),
        "whole_s": mean(run.ended - run.began for run in runs),
        "whole_cpu_s": mean(run.cpu_s[-1] for run in runs),
        "driver_mib": max(max(run.driver_mib) for run in runs),
        "workers_mib": max(max(run.workers_mib) for run in runs),
        "accuracy": mean(run.accuracy for run in runs),
    }


def _apart(one: Played, other: Played) -> float:
    """How far what was trained differs, of its length."""
    assert one.trained.keys() == other.trained.keys(), "they do not train the same"
    pairs = [(one.trained[name], other.trained[name]) for name in one.trained]
    off = sum(float(((a - b) ** 2).sum()) for a, b in pairs)
    return math.sqrt(off / sum(float((a**2).sum()) for a, _ in pairs))


def _noise(work: Work, pairs: Sequence[tuple[Played, Played]]) -> float:
    """Two standard errors of the difference of two accuracies on so many test samples."""
    rate = mean(run.accuracy for pair in pairs for run in pair)
    return 2 * math.sqrt(2 * rate * (1 - rate) / (work.test_samples * len(pairs)))


def _print(
    work: Work, figures: Sequence[dict[str, float]], apart: Sequence[float], ratio: float
) -> None:
    table = Table(box=None, pad_edge=False, title_justify="left", title=_title(work))
    for head in ("", "cutlayer fl-lora", "Flower", "x"):
        table.add_column(head, justify="right" if head else "left")
    for key, label, digits in (
        ("devices_per_s", "devices a second", 2),
        ("devices_per_cpu_s", "devices a processor second", 2),
        ("whole_s", "whole run, start included [s]", 1),
        ("whole_cpu_s", "its processor time [s]", 1),
        ("driver_mib", "peak memory, driver [MiB]", 0),
        ("workers_mib", "peak memory, other processes [MiB]", 0),
        ("accuracy", "accuracy", 4),
    ):
        one, other = figures[0][key], figures[1][key]
        times = "" if key == "accuracy" or not other or not one else f"{one / other:.2f}"
        table.add_row(label, f"{one:.{digits}f}", f"{other:.{digits}f}", times)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table)
    far = ", ".join(f"{one:.1e}" for one in apart)
    console.print(f"what was trained differs by {far} of its length, seed by seed")
    met = "met" if ratio >= _GOAL else "MISSED"
    console.print(f"devices a second, cutlayer over Flower: {ratio:.2f} (goal {_GOAL:g}: {met})")
    console.print(f"Python {platform.python_version()}, torch {torch.__version__}, {FLOWER}")


def _title(work: Work) -> str:
    return (
        f"DINOv2-small, LoRA, {work.devices} devices a round, {work.local_steps} local steps of"
        f" {work.batch} images of {work.image_size} px, {work.cores} cores"
    )


if __name__ == "__main__":
    sys.exit(main())
