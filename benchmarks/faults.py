"""Runs in which everything breaks: what was done to them, and what they lost by it.

    PYTHONPATH=tests python benchmarks/faults.py [--schedules N] [--processes N] [--first SEED]

See README.md here for what each figure answers. Needs `pip install -e '.[dev]'`: schedules and
checks are those of the tests.
"""

import argparse
import logging
import os
import platform
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tiny
from net import process_faults
from net.playing import GIVEN_UP, Calm, Outcome, make_setup, played
from net.schedules import Fault, Schedule, blows, draw, draw_blows, seen

# a model's folder, and that of its data
Files = tuple[Path, Path]
# each kind of fault must have happened so often: once in so many schedules
_ONCE_IN = 50


def main() -> int:
    arguments = _arguments()
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


def _in_memory(folder: Path, files: Files, seeds: range) -> Iterator[Outcome]:
    """The outcome of each schedule over memory links."""
    setup, calm = make_setup(*files), Calm()
    for seed in seeds:
        schedule = draw(seed)
        with _told(schedule):
            outcome = played(setup, folder / f"memory-{seed}", schedule, calm)
        yield _judged(outcome)


def _in_processes(folder: Path, files: Files, seeds: range, disks: bool) -> Iterator[Outcome]:
    """The outcome of each schedule of processes, on file systems of their own if `disks`."""
    config, calm = process_faults.make_config(*files), Calm()
    for seed in seeds:
        schedule = draw_blows(seed, disks)
        with _told(schedule):
            place = folder / f"processes-{seed}"
            outcome = process_faults.played(config, place, schedule, calm, disks)
        yield _judged(outcome)


@contextmanager
def _told(schedule: Schedule) -> Iterator[None]:
    """A schedule that cannot be played to its end is told."""
    try:
        yield
    except BaseException:
        print(schedule, file=sys.stderr)
        raise


def _judged(outcome: Outcome) -> Outcome:
    """A schedule whose outcome is wrong is told."""
    if not outcome.right:
        print(f"{outcome.schedule}\n{outcome}", file=sys.stderr)
    return outcome


def _expected() -> list[str]:
    """The names of all that may happen to a run over memory links."""
    return [*(name for fault in Fault for name in seen(fault)), GIVEN_UP]


def _show(title: str, found: Sequence[Outcome], expected: Sequence[str], least: int) -> list[str]:
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=200, help="over memory links (200)")
    parser.add_argument("--processes", type=int, default=10, help="over real processes (10)")
    parser.add_argument("--first", type=int, default=0, help="the first schedule's seed (0)")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
