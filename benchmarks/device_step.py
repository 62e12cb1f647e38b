"""One local step of a device part in a given mode: its bytes, its FLOPs, its seconds.

The server is a source of random gradients. Knows how to measure, not what to compare.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)
from transformers import ViTConfig, ViTForImageClassification

from cutlayer.model.holding import Pending, hold
from cutlayer.model.load import load_device_part
from cutlayer.model.lora import AdapterSpec
from cutlayer.model.memory import SavedBytes
from cutlayer.model.optimizer import Sgd
from cutlayer.model.split import DevicePart
from cutlayer.spec import Holding

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
    """How a device works through a mini-batch."""

    holding: Holding
    micro_batches: int
    in_flight: int
    half: bool = False

    @property
    def name(self) -> str:
        """`keep/16/1/float32`."""
        base = "bfloat16" if self.half else "float32"
        return f"{self.holding}/{self.micro_batches}/{self.in_flight}/{base}"


@dataclass(frozen=True)
class Held:
    """Bytes by kind at the peak of a step.

    `saved`: what autograd holds, with what it runs again in backward. `crossing`: one micro-batch's
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
    with (
        SavedBytes([*part.adapted.tensors, rows, pixels]) as saved,
        FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter,
    ):
        crossing = _step(part, rows, few, _size(pixels, mode), mode)
    assert rows.grad is not None
    return Held(
        weights=part.adapted.bytes,
        adapters=rows.nbytes,
        gradients=rows.grad.nbytes,
        optimizer=velocity.nbytes,
        input=pixels.nbytes,
        saved=saved.peak,
        crossing=crossing,
        flops=counter.get_total_flops() * len(pixels) // len(few),
    )


def run(path: Path, extent: Extent, mode: Mode) -> Ran:
    """Run one step in a process of its own, which has run one sample before.

    A half-precision base, slow where processors lack it, runs as few micro-batches as `held`; its
    seconds are scaled to all of them.
    """
    torch.set_num_threads(1)
    part, rows, pixels = _ready(path, extent, mode)
    _step(part, rows.detach().clone().requires_grad_(), pixels[:1], 1, mode)
    used = _few(pixels, mode) if mode.half else pixels
    before = _resident("VmRSS")
    _forget_peak()
    wall, processor = time.perf_counter(), time.thread_time()
    _step(part, rows, used, _size(pixels, mode), mode)
    processor_s, wall_s = time.thread_time() - processor, time.perf_counter() - wall
    scale = len(pixels) / len(used)
    peak = _resident("VmHWM")
    growth = None if before is None or peak is None else peak - before
    return Ran(growth, scale * processor_s, scale * wall_s)


def _ready(path: Path, extent: Extent, mode: Mode) -> tuple[DevicePart, Tensor, Tensor]:
    adapter = AdapterSpec(rank=extent.rank, alpha=float(extent.rank))
    part = load_device_part(
        path,
        "image-classification",
        extent.cut,
        adapter,
        classes=100,
        dtype=torch.bfloat16 if mode.half else torch.float32,
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
        one = hold(part, rows, [len(micro)], {"pixel_values": micro}, mode.holding)
        crossing = max(crossing, one.activation.nbytes)
        one.release()  # as if it had been sent
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
