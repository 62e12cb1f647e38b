"""What a device holds to train its part, by mode: bytes by kind, FLOPs, seconds, resident memory.

    python benchmarks/device_memory.py [--quick | --bases] [--rounds N] [--json FILE]

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
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)
from transformers import ViTConfig, ViTForImageClassification

from cutlayer.model.described import AdapterSpec
from cutlayer.model.load import load_device_part
from cutlayer.model.optimizer import Sgd
from cutlayer.model.placement import Placement
from cutlayer.model.split import (
    DevicePart,
    LiveBytes,
    Pending,
    SavedBytes,
    device_forward,
    frozen_forward,
)
from cutlayer.spec import ActivationPolicy, Base

MIB = 2**20
_aten = torch.ops.aten
# torch counts attention on other devices, but not the CPU's kernel
_CPU_ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
        q, k, v
    ),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(g, q, k, v)
    ),
}


@dataclass(frozen=True)
class Extent:
    """The model (a ViT with heads of 64), where it is cut, and the mini-batch."""

    width: int
    blocks: int
    cut: int
    side: int
    batch: int
    rank: int = 16

    @property
    def tokens(self) -> int:
        """Patches of 16 px, and the class token."""
        return (self.side // 16) ** 2 + 1


@dataclass(frozen=True)
class Mode:
    """How a device works through a mini-batch; `trains` False: its part is frozen."""

    activation_memory: ActivationPolicy
    micro_batches: int
    in_flight: int
    base: Base = Base.FLOAT32
    trains: bool = True

    @property
    def name(self) -> str:
        """`keep/16/1/float32`, or `frozen/16/1/float32`."""
        how = self.activation_memory if self.trains else "frozen"
        return f"{how}/{self.micro_batches}/{self.in_flight}/{self.base}"


@dataclass(frozen=True)
class Held:
    """Bytes by kind at the peak of a step.

    `saved`: what autograd holds, with what it runs again in backward; of a part that is frozen all
    that a forward has at a time. `crossing`: one micro-batch's
    activation or gradient at the cut, float32. `flops`: of forward and backward.
    """

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    input: int
    saved: int
    crossing: int
    flops: int

    @property
    def total(self) -> int:
        """All kinds together [bytes]."""
        return self.fixed + self.growth

    @property
    def fixed(self) -> int:
        """What is there before a step."""
        return self.weights + self.adapters + self.optimizer + self.input

    @property
    def growth(self) -> int:
        """What a step adds."""
        return self.gradients + self.saved + self.crossing


@dataclass(frozen=True)
class Ran:
    """What the operating system saw of a step, and how long it took by two clocks.

    `growth`: peak resident bytes above those before the step; None where Linux's `/proc` is not.
    """

    growth: int | None
    processor_s: float
    wall_s: float


def save_model(path: Path, extent: Extent) -> None:
    """A ViT with random weights."""
    config = ViTConfig(
        hidden_size=extent.width,
        intermediate_size=4 * extent.width,
        num_attention_heads=extent.width // 64,
        num_hidden_layers=extent.blocks,
        image_size=extent.side,
        num_labels=100,
    )
    torch.manual_seed(0)
    ViTForImageClassification(config).save_pretrained(path)


def held(path: Path, extent: Extent, mode: Mode) -> Held:
    """Count one step's bytes with saved-tensor hooks, and its FLOPs with torch's counter.

    Runs one micro-batch more than may be in flight: all are alike, and no more is ever held.
    """
    torch.set_num_threads(1)
    part, rows, pixels = _ready(path, extent, mode)
    few = _few(pixels, mode)
    velocity = Sgd(momentum=0.9).init(rows)["velocity"]
    step = partial(_step, part, rows, few, _size(pixels, mode), mode)
    there_anyway = [*part.adapted.tensors, rows, pixels]
    if not mode.trains:  # apart: the counter's own dispatch holds tensors too
        with LiveBytes(there_anyway) as live:
            step()
    with (
        SavedBytes(there_anyway) as saved,
        FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter,
    ):
        crossing = step()
    return Held(
        weights=part.adapted.bytes,
        adapters=rows.nbytes,
        gradients=0 if rows.grad is None else rows.grad.nbytes,
        optimizer=velocity.nbytes,
        input=pixels.nbytes,
        saved=saved.peak if mode.trains else live.peak,
        crossing=crossing,
        flops=counter.get_total_flops() * len(pixels) // len(few),
    )


def run(path: Path, extent: Extent, mode: Mode) -> Ran:
    """Run one step in a process of its own, which has run one sample before."""
    torch.set_num_threads(1)
    part, rows, pixels = _ready(path, extent, mode)
    _step(part, rows.detach().clone().requires_grad_(), pixels[:1], 1, mode)
    before = _resident("VmRSS")
    _forget_peak()
    wall, processor = time.perf_counter(), time.thread_time()
    _step(part, rows, pixels, _size(pixels, mode), mode)
    processor_s, wall_s = time.thread_time() - processor, time.perf_counter() - wall
    peak = _resident("VmHWM")
    growth = None if before is None or peak is None else peak - before
    return Ran(growth, processor_s, wall_s)


def _ready(path: Path, extent: Extent, mode: Mode) -> tuple[DevicePart, Tensor, Tensor]:
    layers = None if mode.trains else tuple(range(extent.cut, extent.blocks))
    adapter = AdapterSpec(rank=extent.rank, alpha=float(extent.rank), layers=layers)
    part = load_device_part(
        path,
        "image-classification",
        extent.cut,
        adapter,
        classes=100,
        placement=Placement(base=mode.base),
    )
    generator = torch.Generator().manual_seed(1)
    row = part.adapted.initial_row(0)
    row += 0.02 * torch.randn(row.shape, generator=generator)  # B is zero before training
    pixels = torch.randn(extent.batch, 3, extent.side, extent.side, generator=generator)
    return part, row.unsqueeze(0).requires_grad_(), pixels


def _size(pixels: Tensor, mode: Mode) -> int:
    return len(pixels) // mode.micro_batches


def _few(pixels: Tensor, mode: Mode) -> Tensor:
    return pixels[: _size(pixels, mode) * min(mode.micro_batches, mode.in_flight + 1)]


def _step(part: DevicePart, rows: Tensor, pixels: Tensor, size: int, mode: Mode) -> int:
    """Forward and backward of `pixels`, `size` at a time; the bytes of so many at the cut."""
    pending: list[Pending] = []
    draw = torch.Generator().manual_seed(2)
    crossing = 0
    for micro in pixels.split(size):
        given = part, rows, [len(micro)], {"pixel_values": micro}
        if mode.trains:
            one = device_forward(*given, mode.activation_memory)
        else:
            one = frozen_forward(*given)
        # of a forward's own it is counted there
        crossing = max(crossing, one.activation.nbytes if mode.trains else 0)
        one.release()  # as if it had been sent
        if not mode.trains:
            continue
        pending.append(one)
        if len(pending) == mode.in_flight:
            _receive(pending.pop(0), draw)
    for one in pending:
        _receive(one, draw)
    return crossing


def _receive(pending: Pending, draw: torch.Generator) -> None:
    pending.backward(1e-3 * torch.randn(pending.shape, generator=draw))


def _resident(field: str) -> int | None:
    """A size of this process from Linux's `/proc` [bytes]."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for line in status.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    return None


def _forget_peak() -> None:
    """Let the kernel's record of this process's peak begin anew."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists() and os.access(clear, os.W_OK):
        clear.write_text("5", encoding="ascii")


FULL = Extent(width=768, blocks=12, cut=5, side=224, batch=64)
QUICK = Extent(width=192, blocks=6, cut=3, side=112, batch=16)
REFERENCE = Mode(ActivationPolicy.KEEP, 1, 1)
FULL_MODES = (
    REFERENCE,
    Mode(ActivationPolicy.KEEP, 16, 1),
    Mode(ActivationPolicy.KEEP, 32, 2),
    Mode(ActivationPolicy.KEEP, 64, 1),
    Mode(ActivationPolicy.CHECKPOINT, 1, 1),
    Mode(ActivationPolicy.CHECKPOINT, 16, 1),
    Mode(ActivationPolicy.CHECKPOINT, 64, 64),
    Mode(ActivationPolicy.RECOMPUTE, 1, 1),
    Mode(ActivationPolicy.RECOMPUTE, 64, 64),
    Mode(ActivationPolicy.KEEP, 32, 1, Base.NF4, trains=False),
    Mode(ActivationPolicy.KEEP, 64, 1, Base.NF4, trains=False),
)
# as many samples in flight as in 16 micro-batches of the whole mini-batch, in a quarter of the time
BASES = replace(FULL, batch=16)
BASE_MODES = tuple(Mode(ActivationPolicy.KEEP, 4, 1, base) for base in Base)
QUICK_MODES = (
    REFERENCE,
    Mode(ActivationPolicy.KEEP, 4, 1),
    Mode(ActivationPolicy.CHECKPOINT, 4, 1),
    Mode(ActivationPolicy.RECOMPUTE, 16, 16),
    *(Mode(ActivationPolicy.KEEP, 4, 1, base) for base in (Base.BFLOAT16, Base.NF4)),
    Mode(ActivationPolicy.KEEP, 4, 1, Base.NF4, trains=False),
)

Value = TypeVar("Value")


@dataclass(frozen=True)
class Row:
    """One mode's figures; ratios are over the first mode."""

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
    Goal(Mode(ActivationPolicy.KEEP, 16, 1), 420, 1.05),
    Goal(Mode(ActivationPolicy.KEEP, 32, 2), 420, 1.05),
    Goal(Mode(ActivationPolicy.KEEP, 64, 1), 250, 1.05),
    Goal(Mode(ActivationPolicy.RECOMPUTE, 64, 64), 250, 1.5),
    Goal(Mode(ActivationPolicy.KEEP, 32, 1, Base.NF4, trains=False), 90, 1.0),
)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write. Exit code 1 if a goal is missed."""
    arguments = _parser().parse_args(words)
    started = time.perf_counter()
    extent, modes = (QUICK, QUICK_MODES) if arguments.quick else (FULL, FULL_MODES)
    if arguments.bases:
        extent, modes = BASES, BASE_MODES
    rows = _measured(extent, modes, 1 if arguments.quick else arguments.rounds)
    partial = arguments.quick or arguments.bases
    goals = [] if partial else [_judged(goal, rows) for goal in GOALS]
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
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="a small model: within 60 s")
    which.add_argument("--bases", action="store_true", help="each base, four samples at a time")
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

    reference = next(iter(counted))  # the first mode

    return Row(
        mode,
        counted[mode],
        tuple(runs[mode]),
        counted[mode].flops / counted[reference].flops,
        least_s(mode) / least_s(reference),
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
    for head in ("activation memory", "base"):
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
        str(row.mode.activation_memory),
        str(row.mode.base),
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
