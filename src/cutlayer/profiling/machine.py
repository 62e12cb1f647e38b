"""What this machine reaches when it trains: blocks of each family, with adapters, as a server runs
them; how fast weights are read, what memory is free, and what it draws.

Blocks have random weights, since arithmetic takes as long with any. Knows torch; the file that
comes of it is `planner.machine`'s.
"""

import contextlib
import datetime
import logging
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from cutlayer.errors import ConfigError
from cutlayer.model.base import check_base
from cutlayer.model.describe import describe
from cutlayer.model.described import AdapterSpec
from cutlayer.model.load import load_server_part
from cutlayer.model.placement import Placement, device_title
from cutlayer.model.split import ServerPart
from cutlayer.planner.machine import FAMILIES, Family, MachineProfile, ReachedRate
from cutlayer.profiling.power import PowerMeter, find_meter
from cutlayer.rounds.costs import StepFlops, physical_flops
from cutlayer.spec import Base, MiniBatch, Task
from cutlayer.training.server_batch import ServerLoad, server_batch
from cutlayer.units import MIB, format_bytes

_LOG = logging.getLogger(__name__)

_TASKS: dict[Family, Task] = {family: task for task, family in FAMILIES.items()}
_HEAD, _VOCABULARY, _CLASSES = 64, 512, 10
_BLOCKS, _CUT = 3, 1
_ROWS = 4096


@dataclass(frozen=True)
class BlockShape:
    """Blocks to measure: how wide they are, and the mini-batch. Raises ConfigError for a width that
    is no multiple of a head's 64, and counts below 1."""

    family: Family
    width: int
    tokens: int
    samples: int

    def __post_init__(self) -> None:
        if self.width < _HEAD or self.width % _HEAD:
            wrong = f"width {self.width}: give a multiple of {_HEAD}, a head's"
            raise ConfigError(wrong, thing="width")
        for what, count in (("tokens", self.tokens), ("samples", self.samples)):
            if count < 1:
                raise ConfigError(f"{what} {count}: give at least 1", thing=what)


# as wide as the smallest models of each family that are any good, on mini-batches of a usual size
SHAPES: dict[Family, BlockShape] = {
    "vision": BlockShape("vision", width=384, tokens=257, samples=16),
    "encoder": BlockShape("encoder", width=384, tokens=128, samples=16),
    "decoder": BlockShape("decoder", width=576, tokens=256, samples=4),
}


@dataclass(frozen=True)
class BenchEffort:
    """How long each number is measured for [s], how much memory is read through [MiB]."""

    each_s: float = 2.0
    power_s: float = 5.0
    read_mib: int = 256
    quick: bool = False


# mini-batches a sixteenth as large
QUICK_SHAPES = {
    family: replace(shape, tokens=shape.tokens // 4, samples=max(1, shape.samples // 4))
    for family, shape in SHAPES.items()
}
QUICK = BenchEffort(each_s=0.15, power_s=1.0, read_mib=64, quick=True)


def bases_here() -> tuple[Base, ...]:
    """The numbers in which a base can be held on this machine."""
    found = []
    for base in Base:
        with contextlib.suppress(ConfigError):
            check_base(base)
            found.append(base)
    return tuple(found)


@dataclass(frozen=True)
class Stopwatch:
    """Seconds of a call on a device, what it has queued there included. Injected clock [s]."""

    device: torch.device
    clock: Callable[[], float] = time.perf_counter

    def median_s(self, call: Callable[[], object], each_s: float) -> float:
        """The median over `each_s`, three times at least; the first two calls do not count."""
        for _ in range(2):
            self.seconds(call)
        taken: list[float] = []
        while len(taken) < 3 or sum(taken) < each_s:
            taken.append(self.seconds(call))
        return statistics.median(taken)

    def seconds(self, call: Callable[[], object]) -> float:
        """Of one call, from an idle device to an idle device."""
        _wait_for(self.device)
        began_s = self.clock()
        call()
        _wait_for(self.device)
        return self.clock() - began_s


def bench_machine(
    name: str,
    command: str,
    device: torch.device,
    shapes: Sequence[BlockShape],
    bases: Sequence[Base],
    effort: BenchEffort,
    *,
    meter: PowerMeter | str | None = None,
) -> MachineProfile:
    """Measure all of it. `meter`: what tells the power, or why nothing does; None: look for it.

    Raises ConfigError or ModelError for a base or a width that cannot be here.
    """
    watch, rates, power_w = Stopwatch(device), list[ReachedRate](), None
    total, free = memory_bytes(device)
    meter = find_meter(str(device), _gpu_id(device)) if meter is None else meter
    idle_power_w = _idle_w(meter, effort.power_s) if isinstance(meter, PowerMeter) else None
    for shape in shapes:
        for base in bases:
            bench = _Bench(shape, Placement(device, base), watch)
            rates.append(bench.rate(effort.each_s))
            reached = rates[-1].step_flops_per_s / 1e9
            _LOG.info(f"{shape.family} blocks in {base.value}: {reached:.3g} GFLOP/s in a step")
            if isinstance(meter, PowerMeter) and power_w is None:
                power_w = bench.power_w(meter, effort.power_s)
    source = meter.source if isinstance(meter, PowerMeter) else meter
    if isinstance(meter, PowerMeter) and not power_w:
        source += ", which told no power"
    return MachineProfile(
        name=name,
        command=command,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        device=str(device),
        processor=_processor() if device.type == "cpu" else device_title(device),
        torch=str(torch.__version__),
        threads=torch.get_num_threads(),
        quick=effort.quick,
        rates=tuple(rates),
        weight_bytes_per_s=read_bytes_per_s(watch, effort),
        memory_total_bytes=total,
        memory_free_bytes=free,
        power_w=power_w or None,  # a virtual machine's counters stand still
        idle_power_w=idle_power_w if power_w else None,
        power_source=source,
    )


def machine_lines(profile: MachineProfile) -> list[str]:
    """What was measured, in words."""
    lines = [
        f"{one.family} blocks in {one.base.value}, {one.width} wide, {one.samples} x {one.tokens}"
        f" tokens: {one.step_flops_per_s / 1e9:.3g} GFLOP/s in a step,"
        f" {one.forward_flops_per_s / 1e9:.3g} forward, {1e3 * one.block_s:.3g} ms a block at least"
        for one in profile.rates
    ]
    free, power_w, idle_w = profile.memory_free_bytes, profile.power_w, profile.idle_power_w
    lines.append(f"weights are read at {profile.weight_bytes_per_s / 1e9:.3g} GB/s")
    lines.append("memory: unknown" if free is None else f"memory: {format_bytes(free)} free")
    if power_w is None:
        lines.append(f"power: unknown, {profile.power_source}")
    else:
        idle = "" if idle_w is None else f", {idle_w:.1f} W while it waits"
        lines.append(f"power: {power_w:.1f} W{idle} ({profile.power_source})")
    return lines


def _idle_w(meter: PowerMeter, seconds: float) -> float | None:
    watch = meter.watching()
    time.sleep(seconds)
    return watch.power_w()


class _Bench:
    """One kind of blocks in one kind of numbers, on a device."""

    def __init__(self, shape: BlockShape, placement: Placement, watch: Stopwatch) -> None:
        self._shape, self._base, self._watch = shape, placement.base, watch
        self._part, self._flops = _blocks(shape, placement)
        self._load = _load(self._part, shape)
        self._least = _load(self._part, replace(shape, tokens=2, samples=1))

    def rate(self, each_s: float) -> ReachedRate:
        """Of a forward alone, of a step, and of a step of so few tokens that it takes no time but
        what any step takes."""
        shape, flops = self._shape, self._flops
        forward_s = self._watch.median_s(self._forward, each_s)
        step_s = self._watch.median_s(self._step, each_s)
        least_s = self._watch.median_s(lambda: server_batch(self._part, [self._least]), each_s / 2)
        return ReachedRate(
            family=shape.family,
            base=self._base,
            width=shape.width,
            tokens=shape.tokens,
            samples=shape.samples,
            forward_flops_per_s=flops.server_forward / forward_s,
            step_flops_per_s=flops.server / step_s,
            block_s=least_s / (_BLOCKS - _CUT),
        )

    def power_w(self, meter: PowerMeter, seconds: float) -> float | None:
        """The mean while steps go on for so long [W]."""
        watch, left_s = meter.watching(), seconds
        while left_s > 0:
            left_s -= self._watch.seconds(self._step)
        return watch.power_w()

    def _step(self) -> None:
        server_batch(self._part, [self._load])

    def _forward(self) -> None:
        load = self._load
        with torch.no_grad():
            self._part.forward(load.row[None], [len(load.labels)], load.activation, load.lengths)


def _blocks(shape: BlockShape, placement: Placement) -> tuple[ServerPart, StepFlops]:
    """A server part of blocks of this shape with random weights, and what a step of it computes."""
    task = _TASKS[shape.family]
    adapter = AdapterSpec(rank=8, alpha=8.0, head=task != "causal-lm")
    batch = MiniBatch(shape.samples, shape.tokens)
    with tempfile.TemporaryDirectory(prefix="cutlayer-bench-") as name:
        folder = Path(name)
        model = _model(shape)
        model.config.save_pretrained(folder)
        save_file(dict(model.state_dict()), folder / "model.safetensors", {"format": "pt"})
        part = load_server_part(folder, task, _CUT, adapter, classes=_CLASSES, placement=placement)
        spec = describe(folder, task, adapter, classes=_CLASSES, padded=False)
    return part, physical_flops(spec, _CUT, batch)


def _model(shape: BlockShape) -> transformers.PreTrainedModel:
    """As the architectures are that each family is named for: DINOv2, BERT, Llama."""
    sizes: dict[str, Any] = {
        "hidden_size": shape.width,
        "num_hidden_layers": _BLOCKS,
        "num_attention_heads": shape.width // _HEAD,
    }
    text = sizes | {"vocab_size": _VOCABULARY, "max_position_embeddings": max(shape.tokens, 8)}
    match shape.family:
        case "vision":
            config = transformers.Dinov2Config(**sizes, image_size=56, patch_size=14)
            return transformers.Dinov2Model(config)
        case "encoder":
            wide = text | {"intermediate_size": 4 * shape.width}
            return transformers.BertModel(transformers.BertConfig(**wide))
        case "decoder":
            gated = text | {"intermediate_size": _HEAD * round(8 * shape.width / 3 / _HEAD)}
            return transformers.LlamaForCausalLM(transformers.LlamaConfig(**gated))


def _load(part: ServerPart, shape: BlockShape) -> ServerLoad:
    """A mini-batch of random values where the part is."""
    device = part.adapted.device
    drawn = torch.Generator().manual_seed(0)
    size = (shape.samples, shape.tokens)
    texts, language = shape.family != "vision", shape.family == "decoder"
    labels = torch.randint(_CLASSES, size if language else size[:1], generator=drawn)
    return ServerLoad(
        part.adapted.initial_row(0).to(device),
        torch.randn(*size, shape.width, generator=drawn).to(device),
        (shape.tokens,) * shape.samples if texts else None,
        labels.to(device),
    )


def read_bytes_per_s(watch: Stopwatch, effort: BenchEffort) -> float:
    """How fast weights are read: a row times a matrix that no cache holds [byte/s]."""
    columns = effort.read_mib * MIB // (4 * _ROWS)
    matrix = torch.ones(columns, _ROWS, device=watch.device)
    row = torch.ones(_ROWS, device=watch.device)
    return matrix.nbytes / watch.median_s(lambda: torch.mv(matrix, row), effort.each_s / 2)


def memory_bytes(device: torch.device) -> tuple[int | None, int | None]:
    """All memory of a device and what is free, None where it does not tell.

    Of the host within what a container may take.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total, free
    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        return total, total - torch.mps.driver_allocated_memory()
    return host_memory_bytes(Path("/"))


def host_memory_bytes(root: Path) -> tuple[int | None, int | None]:
    """The same of the host, by Linux's files below `root`; elsewhere nobody tells."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
        known = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        total, free = known["MemTotal"], known["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):
        return None, None
    try:
        group = root / "sys/fs/cgroup"
        most = int((group / "memory.max").read_text(encoding="utf-8"))
        used = int((group / "memory.current").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no container, or `max`
        return total, free
    return min(total, most), max(min(free, most - used), 1)


def _gpu_id(device: torch.device) -> str:
    """A name of a GPU that does not depend on CUDA_VISIBLE_DEVICES."""
    if device.type != "cuda":
        return ""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def _wait_for(device: torch.device) -> None:
    """Until it has computed all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _processor() -> str:
    """What the CPU is called."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return next(iter(names), platform.processor() or platform.machine())
