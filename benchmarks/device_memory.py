"""What a device holds to train its part, by mode: bytes by kind, FLOPs, seconds, resident memory.

    python benchmarks/device_memory.py [--quick] [--rounds N] [--json FILE]

See README.md here for what each figure answers. Needs `pip install '.[train]'`.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
from device_step import Extent, Held, Mode, Ran, held, run, save_model
from rich.console import Console
from rich.table import Table

from cutlayer.spec import Holding

MIB = 2**20
FULL = Extent(width=768, blocks=12, cut=5, side=224, batch=64)
QUICK = Extent(width=192, blocks=6, cut=3, side=112, batch=16)
REFERENCE = Mode(Holding.KEEP, 1, 1)
FULL_MODES = (
    REFERENCE,
    Mode(Holding.KEEP, 16, 1),
    Mode(Holding.KEEP, 32, 2),
    Mode(Holding.KEEP, 64, 1),
    Mode(Holding.CHECKPOINT, 1, 1),
    Mode(Holding.CHECKPOINT, 16, 1),
    Mode(Holding.CHECKPOINT, 64, 64),
    Mode(Holding.RECOMPUTE, 1, 1),
    Mode(Holding.RECOMPUTE, 64, 64),
    Mode(Holding.KEEP, 16, 1, half=True),
)
QUICK_MODES = (
    REFERENCE,
    Mode(Holding.KEEP, 4, 1),
    Mode(Holding.CHECKPOINT, 4, 1),
    Mode(Holding.RECOMPUTE, 16, 16),
    Mode(Holding.KEEP, 4, 1, half=True),
)

Value = TypeVar("Value")


@dataclass(frozen=True)
class Row:
    """One mode's figures; ratios are over keeping a whole mini-batch."""

    mode: Mode
    held: Held
    runs: tuple[Ran, ...]
    flops_ratio: float
    time_ratio: float

    @property
    def resident_growth(self) -> int | None:
        """The most of all runs [bytes]."""
        return max((ran.growth for ran in self.runs if ran.growth is not None), default=None)


@dataclass(frozen=True)
class Goal:
    """A bound [MiB] on a mode's total, at no more than `flops_ratio` of FLOPs."""

    mode: Mode
    mib: float
    flops_ratio: float


# the first is what the paper's table III has for this model, cut and mini-batch
GOALS = (
    Goal(REFERENCE, 4122.92, 1.0),
    Goal(Mode(Holding.KEEP, 16, 1), 420, 1.05),
    Goal(Mode(Holding.KEEP, 32, 2), 420, 1.05),
    Goal(Mode(Holding.KEEP, 64, 1), 250, 1.05),
    Goal(Mode(Holding.RECOMPUTE, 64, 64), 250, 1.5),
    Goal(Mode(Holding.KEEP, 16, 1, half=True), 250, 1.05),
)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write. Exit code 1 if a goal is missed."""
    arguments = _parser().parse_args(words)
    started = time.perf_counter()
    extent, modes = (QUICK, QUICK_MODES) if arguments.quick else (FULL, FULL_MODES)
    rows = _measured(extent, modes, 1 if arguments.quick else arguments.rounds)
    goals = [] if arguments.quick else [_judged(goal, rows) for goal in GOALS]
    about = {
        "quick": arguments.quick,
        "machine": _processor(),
        "torch": torch.__version__,
        "extent": asdict(extent),
        "wall_s": round(time.perf_counter() - started, 1),
    }
    _print(rows, goals, about, extent)
    if arguments.json:
        found = {"about": about, "figures": _by_name(rows), "goals": goals}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if all(goal["met"] for goal in goals) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small model: within 60 s")
    parser.add_argument("--rounds", type=int, default=2, help="timed runs of each mode (2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure by name")
    return parser


def _measured(extent: Extent, modes: Sequence[Mode], rounds: int) -> list[Row]:
    """Every mode counted once, then timed in `rounds` rounds of all modes."""
    with tempfile.TemporaryDirectory() as folder, Console(stderr=True).status("model") as status:
        path = Path(folder)
        save_model(path, extent)
        counted, runs = {}, {mode: list[Ran]() for mode in modes}
        for mode in modes:
            status.update(f"bytes: {mode.name}")
            counted[mode] = _apart(held, path, extent, mode)
        for number in range(rounds):
            for mode in modes:
                status.update(f"round {number + 1}: {mode.name}")
                runs[mode].append(_apart(run, path, extent, mode))
    return [_row(mode, counted, runs) for mode in modes]


def _apart(
    measure: Callable[[Path, Extent, Mode], Value], path: Path, extent: Extent, mode: Mode
) -> Value:
    """`measure` in a process of its own, forked from one that has imported and run nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cutlayer.model.load", "transformers.models.vit.modeling_vit"])
    with context.Pool(1) as pool:
        return pool.apply(measure, (path, extent, mode))


def _row(mode: Mode, counted: dict[Mode, Held], runs: dict[Mode, list[Ran]]) -> Row:
    def least_s(one: Mode) -> float:
        return min(ran.processor_s for ran in runs[one])

    return Row(
        mode,
        counted[mode],
        tuple(runs[mode]),
        counted[mode].flops / counted[REFERENCE].flops,
        least_s(mode) / least_s(REFERENCE),
    )


def _judged(goal: Goal, rows: Sequence[Row]) -> dict[str, object]:
    (row,) = (row for row in rows if row.mode == goal.mode)
    total = row.held.total / MIB
    return {
        "mode": goal.mode.name,
        "most_mib": goal.mib,
        "total_mib": round(total, 2),
        "most_flops_ratio": goal.flops_ratio,
        "flops_ratio": round(row.flops_ratio, 4),
        "met": total <= goal.mib and row.flops_ratio <= goal.flops_ratio,
    }


def _by_name(rows: Sequence[Row]) -> dict[str, dict[str, object]]:
    return {
        row.mode.name: {
            **{f"{kind}_bytes": size for kind, size in asdict(row.held).items() if kind != "flops"},
            "total_bytes": row.held.total,
            "growth_bytes": row.held.growth,
            "resident_growth_bytes": row.resident_growth,
            "flops": row.held.flops,
            "flops_ratio": row.flops_ratio,
            "time_ratio": row.time_ratio,
            "processor_s": [ran.processor_s for ran in row.runs],
            "wall_s": [ran.wall_s for ran in row.runs],
        }
        for row in rows
    }


def _print(
    rows: Sequence[Row],
    goals: Sequence[dict[str, object]],
    about: dict[str, object],
    extent: Extent,
) -> None:
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    console.print(_table(rows, extent))
    for goal in goals:
        verdict = "met" if goal["met"] else "MISSED"
        console.print(
            f"{verdict}: {goal['mode']} {goal['total_mib']} MiB, at most {goal['most_mib']}; FLOPs "
            f"{goal['flops_ratio']} x, at most {goal['most_flops_ratio']}"
        )
    console.print(f"{about['machine']}; torch {about['torch']}; {about['wall_s']} s")


def _table(rows: Sequence[Row], extent: Extent) -> Table:
    title = (
        f"MiB at the peak of a local step: ViT {extent.width} wide, cut after {extent.cut}, "
        f"{extent.batch} images of {extent.side} px, rank {extent.rank}, SGD with momentum"
    )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for head in ("holding", "base"):
        table.add_column(head)
    heads = ["micro", "in flight", "weights", "adapters", "input", "saved", "cut", "total"]
    for head in [*heads, "FLOPs x", "time x", "growth", "resident"]:
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> list[str]:
    counted, resident = row.held, row.resident_growth
    adapters = counted.adapters + counted.gradients + counted.optimizer
    sizes = [counted.weights, adapters, counted.input, counted.saved, counted.crossing]
    return [
        str(row.mode.holding),
        "bfloat16" if row.mode.half else "float32",
        str(row.mode.micro_batches),
        str(row.mode.in_flight),
        *(f"{size / MIB:.1f}" for size in [*sizes, counted.total]),
        f"{row.flops_ratio:.3f}",
        f"{row.time_ratio:.2f}",
        f"{counted.growth / MIB:.1f}",
        "" if resident is None else f"{resident / MIB:.1f}",
    ]


def _processor() -> str:
    lines = Path("/proc/cpuinfo")
    text = lines.read_text(encoding="utf-8") if lines.exists() else ""
    names = [line for line in text.splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.machine()


def _with_plain_memory() -> None:
    """Start again with one thread in every library, and an allocator that gives each larger tensor
    back to the system, so that resident memory is that of live tensors: both are read at start."""
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        plain = {**dict.fromkeys(names, "1"), "MALLOC_MMAP_THRESHOLD_": "65536"}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **plain})


if __name__ == "__main__":
    _with_plain_memory()
    sys.exit(main())
