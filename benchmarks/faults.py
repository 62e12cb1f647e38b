"""Runs in which everything breaks: what was done to them, and what they lost by it.

    PYTHONPATH=tests python benchmarks/faults.py [--schedules N] [--processes N] [--first SEED]

See README.md here for what each figure answers. Needs `pip install -e '.[dev]'`: schedules and
checks are those of the tests.
"""

import argparse
import logging
import platform
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import tiny
from net.playing import GIVEN_UP, Calm, Outcome, make_setup, played
from net.schedules import Fault, draw, seen

# each kind of fault must have happened so often: once in so many schedules
_ONCE_IN = 50


def main() -> int:
    arguments = _arguments()
    logging.disable(logging.CRITICAL)
    print(f"{platform.machine()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        found = list(_in_memory(Path(folder), arguments.first, arguments.schedules))
    missed = _show("over memory links", found, _expected(), arguments.schedules // _ONCE_IN)
    for goal in missed:
        print(f"missed: {goal}")
    return 1 if missed else 0


def _in_memory(folder: Path, first: int, count: int) -> Iterator[Outcome]:
    """The outcome of each schedule; the first that goes wrong is told, and ends it all."""
    model = tiny.vision_model(folder / "model", blocks=3)
    setup, calm = make_setup(model, tiny.images(folder / "images")), Calm()
    for seed in range(first, first + count):
        schedule = draw(seed)
        try:
            outcome = played(setup, folder / str(seed), schedule, calm)
        except BaseException:
            print(schedule, file=sys.stderr)
            raise
        if not outcome.right:
            print(f"{schedule}\n{outcome}", file=sys.stderr)
        yield outcome


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
