"""Runs that are disturbed: what they lose when everything breaks, how slow other work makes them.

    PYTHONPATH=tests python benchmarks/disturbed.py faults [--schedules N] [--processes N]
        [--first SEED]
    python benchmarks/disturbed.py neighbours [--busy N ...] [--pairs K] [--threads T] [--json FILE]

See README.md here for what each figure answers. `faults` needs `pip install -e '.[dev]'`: schedules
and checks are those of the tests. `neighbours` needs `pip install '.[train]'`.
"""

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch

from cutlayer.cli.main import wait_passively
from cutlayer.data.samples import write_arrays

if TYPE_CHECKING:
    from net.playing import Outcome
    from net.schedules import Schedule

# a model's folder, and that of its data
Files = tuple[Path, Path]
# each kind of fault must have happened so often: once in so many schedules
_ONCE_IN = 50
_COMMAND = "from cutlayer.cli.main import main; raise SystemExit(main())"
# GNU OpenMP's own count where nobody says anything: what the command had before
_SPINNING = {"GOMP_SPINCOUNT": "300000"}
_CLASSES = ("dark", "dim", "light", "bright")
_SIDE_PX = 28
# seconds in which the neighbours get going
_SETTLING_S = 2.0


@dataclass(frozen=True)
class Ran:
    """One run [s]: its rounds by the clock, and the processor time of its whole process."""

    rounds_s: float
    processor_s: float


@dataclass(frozen=True)
class Pair:
    """The same run twice, one after the other, beside `busy` loops."""

    busy: int
    spinning: Ran
    sleeping: Ran
    load_average: float


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    faults = commands.add_parser("faults", help="runs in which everything breaks")
    faults.set_defaults(measure=_faults)
    faults.add_argument("--schedules", type=int, default=200, help="over memory links (200)")
    faults.add_argument("--processes", type=int, default=10, help="over real processes (10)")
    faults.add_argument("--first", type=int, default=0, help="the first schedule's seed (0)")
    beside = commands.add_parser(
        "neighbours", help="threads that soon sleep when they wait, against threads that spin"
    )
    beside.set_defaults(measure=_beside)
    beside.add_argument("--busy", type=int, nargs="+", default=[0, 3, 12], metavar="N")
    beside.add_argument("--pairs", type=int, default=5, metavar="K")
    beside.add_argument("--threads", type=int, default=2, metavar="T")
    beside.add_argument("--rounds", type=int, default=1)
    beside.add_argument("--json", type=Path, metavar="FILE", help="write every figure by name")
    arguments = parser.parse_args(words)
    found: int = arguments.measure(arguments)
    return found


def _faults(arguments: argparse.Namespace) -> int:
    """What was done to runs, and what they lost by it; 1 if a goal is missed."""
    import tiny
    from net import process_faults
    from net.schedules import blows

    logging.disable(logging.CRITICAL)
    # tiny tensors: a second thread would only wait; processes take it from here
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"{platform.machine()}, Python {platform.python_version()}")
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = tiny.vision_model(folder / "model", blocks=3), tiny.images(folder / "images")
        if arguments.schedules:
            last = arguments.first + arguments.schedules
            found = list(_in_memory(folder, files, range(arguments.first, last)))
            missed += _show("over memory links", found, _expected(), len(found) // _ONCE_IN)
        if arguments.processes:
            disks = process_faults.can_mount()
            if not disks:
                print("\nno file system is filled: mounting one takes root")
            last = arguments.first + arguments.processes
            found = list(_in_processes(folder, files, range(arguments.first, last), disks))
            every = [blow.value for blow in blows(disks)]
            title = "over real processes on loopback, with mutual TLS"
            missed += _show(title, found, every, len(found) // len(every))
    for goal in missed:
        print(f"missed: {goal}")
    return 1 if missed else 0


def _in_memory(folder: Path, files: Files, seeds: range) -> Iterator["Outcome"]:
    """The outcome of each schedule over memory links."""
    from net.playing import Calm, make_setup, played
    from net.schedules import draw

    setup, calm = make_setup(*files), Calm()
    for seed in seeds:
        schedule = draw(seed)
        with _told(schedule):
            outcome = played(setup, folder / f"memory-{seed}", schedule, calm)
        yield _judged(outcome)


def _in_processes(folder: Path, files: Files, seeds: range, disks: bool) -> Iterator["Outcome"]:
    """The outcome of each schedule of processes, on file systems of their own if `disks`."""
    from net import process_faults
    from net.playing import Calm
    from net.schedules import draw_blows

    config, calm = process_faults.make_config(*files), Calm()
    for seed in seeds:
        schedule = draw_blows(seed, disks)
        with _told(schedule):
            place = folder / f"processes-{seed}"
            outcome = process_faults.played(config, place, schedule, calm, disks)
        yield _judged(outcome)


@contextmanager
def _told(schedule: "Schedule") -> Iterator[None]:
    """A schedule that cannot be played to its end is told."""
    try:
        yield
    except BaseException:
        print(schedule, file=sys.stderr)
        raise


def _judged(outcome: "Outcome") -> "Outcome":
    """A schedule whose outcome is wrong is told."""
    if not outcome.right:
        print(f"{outcome.schedule}\n{outcome}", file=sys.stderr)
    return outcome


def _expected() -> list[str]:
    """The names of all that may happen to a run over memory links."""
    from net.playing import GIVEN_UP
    from net.schedules import Fault, seen

    return [*(name for fault in Fault for name in seen(fault)), GIVEN_UP]


def _show(title: str, found: Sequence["Outcome"], expected: Sequence[str], least: int) -> list[str]:
    """Print the table; the goals that it misses."""
    struck: Counter[str] = sum((one.struck for one in found), Counter())
    lost, doubled = (sum(getattr(one.steps, name) for one in found) for name in ("lost", "doubled"))
    equal = sum(one.equal for one in found)
    rows = {
        "schedules": len(found),
        "faults": struck.total(),
        "micro-batches trained": sum(one.steps.trained for one in found),
        "micro-batches lost": lost,
        "micro-batches trained twice": doubled,
        "rounds closed without a device": sum(one.missed for one in found),
        "adapters equal": f"{equal} of {len(found)}",
    }
    print(f"\n{title}\n")
    for name, value in rows.items():
        print(f"{name:58}{value:>12}")
    print()
    for name in expected:
        print(f"{name:58}{struck[name]:>12}")
    wrong = [f"schedule {one.schedule.seed} went wrong" for one in found if not one.right]
    rare = [f"{name}: {struck[name]} times" for name in expected if struck[name] < least]
    return wrong + rare


def _beside(arguments: argparse.Namespace) -> int:
    """A run beside other work, by either kind of threads."""
    pairs: list[Pair] = []
    print(f"{os.cpu_count()} processors, torch {torch.__version__}, {arguments.threads} threads")
    with tempfile.TemporaryDirectory() as name:
        config = _write_files(Path(name), arguments.threads, arguments.rounds)
        for busy in arguments.busy:
            for number in range(arguments.pairs):
                pairs.append(_pair(config, busy, number))
                _print_pair(pairs[-1])
            _print_medians([pair for pair in pairs if pair.busy == busy])
    if arguments.json:
        arguments.json.write_text(_text(pairs), encoding="utf-8")
    return 0


def _pair(config: Path, busy: int, number: int) -> Pair:
    """Every other pair begins with the other one."""
    with _neighbours(busy):
        first, second = (_SPINNING, {}) if number % 2 == 0 else ({}, _SPINNING)
        ran = {"spinning" if own else "sleeping": _run(config, own) for own in (first, second)}
        return Pair(busy, **ran, load_average=os.getloadavg()[0])


@contextmanager
def _neighbours(count: int) -> Iterator[None]:
    """So many loops that do nothing but want a processor."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        if count:
            time.sleep(_SETTLING_S)
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def _run(config: Path, own: dict[str, str]) -> Ran:
    """`cutlayer train` in a process of its own; `own`: what its user has chosen."""
    chosen: dict[str, str] = {}
    wait_passively(chosen)
    environment = {name: value for name, value in os.environ.items() if name not in chosen}
    with tempfile.TemporaryDirectory() as output:
        words = ("train", str(config), "--output", output, "--quiet")
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, *words],
            env=environment | own,
            stdout=subprocess.DEVNULL,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"cutlayer train ended with {process.returncode}")
        (records,) = Path(output).glob("*/rounds.jsonl")
        lines = records.read_text(encoding="utf-8").splitlines()
    return Ran(sum(json.loads(line)["wall_s"] for line in lines), used.ru_utime + used.ru_stime)


def _write_files(folder: Path, threads: int, rounds: int) -> Path:
    """The demo's shapes with random weights and noise for pictures; the configuration's file."""
    import transformers

    torch.manual_seed(0)
    model = transformers.Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=56)
    transformers.utils.logging.disable_progress_bar()
    transformers.Dinov2Model(model).save_pretrained(folder / "model")
    half = json.dumps({"image_mean": 0.5, "image_std": 0.5})
    (folder / "model" / "preprocessor_config.json").write_text(half, encoding="utf-8")
    rng = np.random.default_rng(0)
    labels = np.arange(256) % len(_CLASSES)
    noise = rng.integers(0, 60, (len(labels), _SIDE_PX, _SIDE_PX))
    split = ((60 * labels[:, None, None] + noise).astype(np.uint8), labels)
    (folder / "data").mkdir()
    write_arrays(folder / "data", split, split, _CLASSES)
    sections = {
        "model": {"name": str(folder / "model"), "cut": 4},
        "data": {"name": str(folder / "data"), "image_size": 56, "test_samples": 64},
        "training": {"rounds": rounds, "local_steps": 4, "batch_size": 16},
        "devices": {"count": 4},
        "threads": threads,
    }
    path = folder / "run.yaml"
    path.write_text(json.dumps(sections), encoding="utf-8")
    return path


def _print_pair(pair: Pair) -> None:
    print(
        f"  beside {pair.busy:2} loops: spinning {pair.spinning.rounds_s:6.1f} s, sleeping"
        f" {pair.sleeping.rounds_s:6.1f} s; load average {pair.load_average:.1f}",
        flush=True,
    )


def _print_medians(pairs: Sequence[Pair]) -> None:
    """Of the rounds' seconds and of the processor's; ratios are medians of the pairs' ratios."""
    print(f"beside {pairs[0].busy} loops, medians of {len(pairs)} pairs")
    for name, field in (("rounds by the clock", "rounds_s"), ("processor time", "processor_s")):
        spinning = [getattr(pair.spinning, field) for pair in pairs]
        sleeping = [getattr(pair.sleeping, field) for pair in pairs]
        ratios = [b / a for a, b in zip(spinning, sleeping, strict=True)]
        print(
            f"  {name:20} spinning {median(spinning):6.1f} s  sleeping {median(sleeping):6.1f} s"
            f"  ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


def _text(pairs: Sequence[Pair]) -> str:
    about = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processors": os.cpu_count(),
    }
    return json.dumps({"about": about, "pairs": [asdict(pair) for pair in pairs]}, indent=1) + "\n"


if __name__ == "__main__":
    sys.exit(main())
