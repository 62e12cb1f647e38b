"""What this machine reaches when it trains: blocks of each family, with adapters, as a server runs
them; how fast weights are read, what memory is free, and what it draws.

Blocks have random weights, since arithmetic takes as long with any. Knows torch; the file that
comes of it is `planner.profile`'s.
"""

import contextlib
import datetime
import logging
import platform
import statistics
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
import transformers
from safetensors.torch import save_file

from cutlayer.errors import ConfigError, is_out_of_memory
from cutlayer.model.base import check_base
from cutlayer.model.describe import describe
from cutlayer.model.described import AdapterSpec
from cutlayer.model.load import load_server_part
from cutlayer.model.placement import Placement, device_title
from cutlayer.model.split import ServerPart
from cutlayer.planner.profile import FAMILIES, Family, MachineProfile, ReachedRate
from cutlayer.rounds.costs import StepFlops, physical_flops
from cutlayer.spec import Base, MiniBatch, Task
from cutlayer.training.server_batch import ServerLoad, server_batch
from cutlayer.units import MIB, format_bytes

# What a machine draws, where it has a sensor: RAPL's counters, a Jetson's INA3221, nvidia-smi.
#
# Knows the files and the command that tell; nothing of what is computed meanwhile.


_SAMPLE_S = 0.1
_SMI = ("nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits")


class PowerMeter(ABC):
    """A sensor. `source`: what it is, and what it sees."""

    source: str

    @abstractmethod
    def watching(self) -> "Watch":
        """From now on; the watch tells the mean power until it is asked [W]."""


class Watch(ABC):
    """A span of time that has begun."""

    @abstractmethod
    def power_w(self) -> float | None:
        """The mean power since it began [W]; None: the sensor told nothing."""


@final
@dataclass(frozen=True)
class RaplMeter(PowerMeter):
    """The counters of a processor's packages [microjoule], which wrap."""

    packages: tuple[Path, ...]
    clock: Callable[[], float] = time.monotonic
    source: str = "RAPL: the processor's packages, without the rest of the machine"

    def watching(self) -> Watch:
        """By the counters now and later."""
        return _RaplWatch(self, self.clock(), tuple(map(_energy_uj, self.packages)))


@dataclass(frozen=True)
class _RaplWatch(Watch):
    meter: RaplMeter
    began_s: float
    began_uj: tuple[int | None, ...]

    def power_w(self) -> float | None:
        joules = 0.0
        for package, began in zip(self.meter.packages, self.began_uj, strict=True):
            ended = _energy_uj(package)
            if began is None or ended is None:
                return None
            wraps = _number(package / "max_energy_range_uj") or 0
            joules += (ended - began + (wraps if ended < began else 0)) / 1e6
        return joules / max(self.meter.clock() - self.began_s, 1e-9)


@final
@dataclass(frozen=True)
class SampledMeter(PowerMeter):
    """A sensor that tells the power of a moment [W], asked ten times a second; None: not now."""

    read_w: Callable[[], float | None]
    source: str

    def watching(self) -> Watch:
        """In a thread of its own."""
        return _SampledWatch(self.read_w)


class _SampledWatch(Watch):
    def __init__(self, read_w: Callable[[], float | None]) -> None:
        self._read_w = read_w
        self._seen: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def power_w(self) -> float | None:
        self._ended.set()
        self._thread.join()
        return statistics.fmean(self._seen) if self._seen else None

    def _sample(self) -> None:
        while True:
            seen = self._read_w()
            if seen is not None:
                self._seen.append(seen)
            if self._ended.wait(_SAMPLE_S):
                return


def find_meter(
    device: str,
    gpu_id: str = "0",
    *,
    sysfs: Path = Path("/sys"),
    run: Callable[[tuple[str, ...]], str | None] | None = None,
) -> PowerMeter | str:
    """The sensor that sees a torch device (`cpu`, `cuda:0`, `mps`), or why there is none.

    A Jetson's sees the whole module, so it is asked first. `gpu_id`: which GPU that is to
    nvidia-smi, whose numbers may be others than torch's. `run` gives a command's output, None if
    it cannot be had.
    """
    whole = next(_module_meters(sysfs), None)
    if whole is not None:
        return whole
    if device.startswith("cuda"):
        words = (*_SMI, f"--id={gpu_id}")
        ask = run or _output
        if _watts(ask(words)) is None:
            return "nvidia-smi tells no power of this GPU"
        return SampledMeter(lambda: _watts(ask(words)), "nvidia-smi: the GPU's board")
    if device != "cpu":
        return f"no sensor is known for {device}"
    packages = tuple(sorted(sysfs.glob("class/powercap/intel-rapl:[0-9]*")))
    packages = tuple(one for one in packages if one.name.count(":") == 1)
    if not packages:
        return "no RAPL counters below /sys/class/powercap, and no sensor of a module"
    if any(_energy_uj(one) is None for one in packages):
        return f"{packages[0]}/energy_uj cannot be read: run as root to measure power"
    return RaplMeter(packages)


def _module_meters(sysfs: Path) -> Iterator[PowerMeter]:
    """INA3221 channels that are called VDD_IN: all that a Jetson module takes in."""
    for label in sorted(sysfs.glob("bus/i2c/drivers/ina3221*/*/hwmon/hwmon*/in*_label")):
        if _text(label) == "VDD_IN":
            number = label.name.removeprefix("in").removesuffix("_label")
            volts, amperes = (label.parent / f"{what}{number}_input" for what in ("in", "curr"))
            if _power_w(volts, amperes) is not None:
                yield SampledMeter(
                    lambda volts=volts, amperes=amperes: _power_w(volts, amperes),  # type: ignore[misc]
                    "INA3221 VDD_IN: the whole module",
                )


def _power_w(millivolts: Path, milliamperes: Path) -> float | None:
    voltage, current = _number(millivolts), _number(milliamperes)
    return None if voltage is None or current is None else voltage * current / 1e6


def _watts(text: str | None) -> float | None:
    """What nvidia-smi says of one GPU; it says [N/A] where it cannot tell."""
    try:
        return None if text is None else float(text.split()[0])
    except (ValueError, IndexError):
        return None


def _energy_uj(package: Path) -> int | None:
    return _number(package / "energy_uj")


def _number(path: Path) -> int | None:
    text = _text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _output(words: tuple[str, ...]) -> str | None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


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

    Raises ConfigError or ModelError for a base, a width or a mini-batch that cannot be here.
    """
    watch, rates, power_w = Stopwatch(device), list[ReachedRate](), None
    total, free = memory_bytes(device)
    meter = find_meter(str(device), _gpu_id(device)) if meter is None else meter
    idle_power_w = _idle_w(meter, effort.power_s) if isinstance(meter, PowerMeter) else None
    for shape in shapes:
        for base in bases:
            with _within_memory(shape, base):
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


@contextlib.contextmanager
def _within_memory(shape: BlockShape, base: Base) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            f"{shape.family} blocks in {base}, {shape.width} wide, need more memory for"
            f" {shape.samples} x {shape.tokens} tokens than there is: lower samples, tokens or"
            " width, or measure quickly",
            thing="quick",
        ) from error


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
