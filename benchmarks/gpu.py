"""The server's batches on an accelerator: equal to the processor's, and how fast, beside its peers.

    python benchmarks/gpu.py OUT [--device cuda] [--quick] [--limit-s 450]

See README.md here for what each figure answers. Needs `pip install '.[train,quant]' peft`. Writes
`OUT/gpu.json` and `OUT/gpu.txt` after every row, so that a run which is cut short is kept.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, TypeAlias
from unittest import mock

import torch
import transformers
from torch import Tensor

from cutlayer.errors import CutlayerError
from cutlayer.model import lora
from cutlayer.model.described import AdapterSpec
from cutlayer.model.load import load_device_part, load_server_part
from cutlayer.model.placement import Accelerators, Placement, device_named, device_title
from cutlayer.model.split import ServerPart, device_forward
from cutlayer.rounds.batching import ServerBatch, ServerBatching, Waiting
from cutlayer.spec import ActivationPolicy, Base, Task
from cutlayer.training.server_batch import ServerLoad, server_batch, server_pass

_RANK = 16
# what may be told apart from rounding: sums in another order, in float32
_TOLERANCE = 1e-4
# samples and tokens of one device's mini-batch: few short texts, and what fills a GPU
_SHAPES = {272: (16, 17), 2048: (4, 512)}
_ADAPTER = AdapterSpec(rank=_RANK, alpha=2.0 * _RANK, head=False)


# its name, devices, rows of each, and a run of it, which gives when each device has its reply [s]
Way: TypeAlias = tuple[str, int, int, Callable[[], list[float]]]


@dataclass(frozen=True)
class Extent:
    """How large the measured model is and how many devices it serves."""

    blocks: int
    width: int
    vocabulary: int
    devices: tuple[int, ...]
    rows: tuple[int, ...]
    repeats: int


FULL = Extent(16, 2048, 32_000, (1, 4, 16, 64), (272, 2048), 3)
QUICK = Extent(3, 64, 256, (1, 4), (272,), 1)


@dataclass(frozen=True)
class Equal:
    """How far one local step on the accelerator is from the processor's, by the largest value."""

    model: str
    activation: float
    gradient: float
    device_adapter: float
    server_adapter: float

    @property
    def holds(self) -> bool:
        """Whether all of it is rounding."""
        found = (self.activation, self.gradient, self.device_adapter, self.server_adapter)
        return max(found) <= _TOLERANCE


@dataclass(frozen=True)
class Timed:
    """One way to serve so many devices' mini-batches, forward and backward without optimisers.

    `reply_ms`: from the arrival of all to a device's gradient, the mean over devices.
    `peak_gb`: allocated on the accelerator at most; None on the processor.
    """

    way: str
    base: str
    devices: int
    rows: int
    tokens_per_s: float
    reply_ms: float
    peak_gb: float | None


# One local step on both.


def equal(folder: Path, device: torch.device) -> Iterator[Equal]:
    """A small model of each task and kind of block."""
    for name, model, task in _small_models():
        path = folder / name
        model.save_pretrained(path)
        host, there = _local_step(path, task, torch.device("cpu")), _local_step(path, task, device)
        yield Equal(name, *map(_distance, there, host))


def _small_models() -> Iterator[tuple[str, transformers.PreTrainedModel, Task]]:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    vit = transformers.ViTConfig(**sizes, intermediate_size=128, image_size=64, num_labels=4)
    yield "vit", transformers.ViTForImageClassification(vit), "image-classification"
    bert = transformers.BertConfig(**sizes, intermediate_size=128, vocab_size=128, num_labels=4)
    yield "bert", transformers.BertForSequenceClassification(bert), "text-classification"
    llama = transformers.LlamaConfig(**sizes, intermediate_size=128, vocab_size=128)
    yield "llama", transformers.LlamaForCausalLM(llama), "causal-lm"
    gpt2 = transformers.GPT2Config(n_embd=64, n_layer=4, n_head=4, vocab_size=128)
    yield "gpt2", transformers.GPT2LMHeadModel(gpt2), "causal-lm"


def _local_step(path: Path, task: Task, device: torch.device) -> tuple[Tensor, ...]:
    """Activation, gradient at the cut, and both adapters' gradients."""
    place = Placement(device)
    below = load_device_part(path, task, 2, _ADAPTER, classes=4, placement=place)
    above = load_server_part(path, task, 2, _ADAPTER, classes=4, placement=place)
    draw = torch.Generator().manual_seed(1)
    if task == "image-classification":
        inputs = {"pixel_values": torch.randn(8, 3, 64, 64, generator=draw)}
        labels = torch.arange(8) % 4
    else:
        ids = torch.randint(1, 128, (8, 12), generator=draw)
        inputs = {"input_ids": ids}
        labels = ids if task == "causal-lm" else torch.arange(8) % 4
    lower, upper = (_rows(part.adapted, 2, draw) for part in (below, above))
    pending = device_forward(below, lower, (5, 3), inputs, ActivationPolicy.KEEP)
    activation = pending.activation
    result = server_pass(above, upper, (5, 3), activation, None, labels.to(device), (1.0, 1.0))
    pending.backward(result.gradient)
    assert lower.grad is not None and upper.grad is not None
    found = (activation, result.gradient, lower.grad, upper.grad)
    return tuple(tensor.detach().cpu() for tensor in found)


def _rows(adapted: Any, devices: int, draw: torch.Generator) -> Tensor:
    """Adapters of which no value is zero, as after some steps."""
    parameters = adapted.layout.parameters
    rows = adapted.initial_row(0).cpu() + 0.01 * torch.randn(devices, parameters, generator=draw)
    return rows.to(adapted.device).requires_grad_()


def _distance(found: Tensor, due: Tensor) -> float:
    return float((found - due).abs().max() / due.abs().max())


# The server part of a language model with random weights, and its peers.


def save_model(folder: Path, extent: Extent, device: torch.device) -> Path:
    """A Llama whose first block is the devices' and whose others are measured, in bfloat16."""
    config = transformers.LlamaConfig(
        hidden_size=extent.width,
        intermediate_size=4 * extent.width,
        num_attention_heads=extent.width // 64 or 1,
        num_hidden_layers=extent.blocks + 1,
        vocab_size=extent.vocabulary,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.LlamaForCausalLM(config).bfloat16()
    model.save_pretrained(folder)
    return folder


def ours(path: Path, extent: Extent, device: torch.device, base: Base) -> Iterator[Way]:
    """Each way of ours to serve the devices, which tells when each has its reply."""
    part = load_server_part(
        path, "causal-lm", 1, _ADAPTER, classes=1, placement=Placement(device, base)
    )
    for rows in extent.rows:
        for devices in extent.devices:
            loads = _loads(part, extent, devices, rows)
            for way, run in _OURS.items():
                yield way, devices, rows, partial(run, part, loads)


def _loads(part: ServerPart, extent: Extent, devices: int, rows: int) -> list[ServerLoad]:
    samples, tokens = _SHAPES[rows]
    draw = torch.Generator().manual_seed(2)
    bank = _rows(part.adapted, devices, draw).detach()
    return [
        ServerLoad(
            row,
            torch.randn(samples, tokens, extent.width, generator=draw).to(bank.device),
            None,
            torch.randint(extent.vocabulary, (samples, tokens), generator=draw).to(bank.device),
        )
        for row in bank
    ]


def _arrivals(part: ServerPart, loads: Sequence[ServerLoad]) -> list[float]:
    """When each device has its gradient [s]: what waits is taken by the server's own rule."""
    batching = ServerBatching(ServerBatch.ARRIVALS)
    began, replied = time.perf_counter(), [0.0] * len(loads)
    left = list(range(len(loads)))
    while left:
        waiting = [Waiting(n, *loads[n].activation.shape[:2]) for n in left]
        taken = [left[place] for place in batching.take(waiting)]
        for places in batching.passes([waiting[left.index(n)] for n in taken]):
            numbers = [taken[place] for place in places]
            server_batch(part, [loads[n] for n in numbers])
            _wait(part.adapted.device)
            for n in numbers:
                replied[n] = time.perf_counter() - began
        left = [n for n in left if n not in taken]
    return replied


def _alone(part: ServerPart, loads: Sequence[ServerLoad]) -> list[float]:
    began, replied = time.perf_counter(), []
    for load in loads:
        server_batch(part, [load])
        _wait(part.adapted.device)
        replied.append(time.perf_counter() - began)
    return replied


def _looped(part: ServerPart, loads: Sequence[ServerLoad]) -> list[float]:
    """As mLoRA does: the base once over all rows, the adapters one after another."""
    with mock.patch.object(lora, "add_low_rank", _one_by_one):
        return _arrivals(part, loads)


def _one_by_one(
    output: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float, groups: lora.RowGroups
) -> Tensor:
    own = zip(torch.split(x, groups.counts), a.to(x.dtype), b.to(x.dtype), strict=True)
    return output + torch.cat([scale * (part @ own_a.T @ own_b.T) for part, own_a, own_b in own])


_OURS = {
    "batch of arrivals": _arrivals,
    "one after another": _alone,
    "loop over adapters": _looped,
}


def with_peft(path: Path, extent: Extent, device: torch.device, base: Base) -> Iterator[Way]:
    """PEFT's adapters on transformers' own model of the same blocks, `set_adapter` for each."""
    import peft  # the peer's, and slow to import

    quantised = None
    if base is Base.NF4:
        quantised = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    config = transformers.AutoConfig.from_pretrained(path, num_hidden_layers=extent.blocks)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path,
        config=config,
        dtype=torch.bfloat16,
        device_map={"": device},
        quantization_config=quantised,
    )
    spec = peft.LoraConfig(r=_RANK, lora_alpha=2 * _RANK, target_modules="all-linear")
    model = peft.get_peft_model(model, spec, adapter_name="0")
    for devices in extent.devices:
        for number in range(len(model.peft_config), devices):
            model.add_adapter(str(number), spec)
        for rows in extent.rows:
            draw = torch.Generator().manual_seed(2)
            samples, tokens = _SHAPES[rows]
            shape = (devices, samples, tokens)
            given = torch.randn(*shape, extent.width, generator=draw).bfloat16().to(device)
            labels = torch.randint(extent.vocabulary, shape, generator=draw).to(device)
            yield (
                "PEFT set_adapter",
                devices,
                rows,
                partial(_set_adapter, model, given, labels),
            )


def _set_adapter(model: Any, given: Tensor, labels: Tensor) -> list[float]:
    began, replied = time.perf_counter(), []
    for number, (activation, own) in enumerate(zip(given, labels, strict=True)):
        model.set_adapter(str(number))
        leaf = activation.detach().requires_grad_()
        model(inputs_embeds=leaf, labels=own).loss.backward()
        model.zero_grad(set_to_none=True)
        _wait(given.device)
        replied.append(time.perf_counter() - began)
    return replied


# Clocks and files.


def timed(
    way: str,
    devices: int,
    rows: int,
    run: Callable[[], list[float]],
    base: Base,
    device: torch.device,
    repeats: int,
) -> Timed:
    """The best of some runs after one that warms up."""
    run()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    best = min((run() for _ in range(repeats)), key=max)
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
    return Timed(way, base, devices, rows, devices * rows / max(best), 1e3 * mean(best), peak)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def _freed(device: torch.device) -> Iterator[None]:
    """A peer's model is gone before the next one is measured."""
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def table(machine: dict[str, str], equals: Sequence[Equal], rows: Sequence[Timed]) -> str:
    """What is written to `gpu.txt`."""
    lines = [f"{name}: {value}" for name, value in machine.items()]
    lines += ["", f"One local step, largest difference to the processor (at most {_TOLERANCE:g})"]
    lines += [
        f"  {one.model:8} activation {one.activation:.1e}  gradient {one.gradient:.1e}"
        f"  adapters {one.device_adapter:.1e} {one.server_adapter:.1e}"
        f"  {'equal' if one.holds else 'NOT EQUAL'}"
        for one in equals
    ]
    lines += [
        "",
        "base      devices  rows  way                  tokens/s  x alone  reply ms  peak GB",
    ]
    alone = {
        (one.base, one.devices, one.rows): one.tokens_per_s
        for one in rows
        if one.way == "one after another"
    }
    for one in sorted(rows, key=lambda one: (one.base, one.rows, one.devices, one.way)):
        reference = alone.get((one.base, one.devices, one.rows))
        ratio = "" if reference is None else f"{one.tokens_per_s / reference:.2f}"
        peak = "" if one.peak_gb is None else f"{one.peak_gb:.1f}"
        lines.append(
            f"{one.base:9} {one.devices:7} {one.rows:5}  {one.way:18} {one.tokens_per_s:10.0f}"
            f" {ratio:>8} {one.reply_ms:9.1f} {peak:>8}"
        )
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Found:
    """What was measured so far, and what was not and why, for the files in `out`."""

    out: Path
    machine: dict[str, str]
    equals: list[Equal] = field(default_factory=list)
    rows: list[Timed] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def keep(self) -> None:
        """Write both files, as far as it got."""
        found = {
            "machine": self.machine,
            "equal": [asdict(one) for one in self.equals],
            "timed": [asdict(one) for one in self.rows],
            "left_out": self.left_out,
        }
        (self.out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        text = table(self.machine, self.equals, self.rows)
        text += "".join(f"left out: {what}\n" for what in self.left_out)
        (self.out / "gpu.txt").write_text(text, encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    """Measure until done or out of time; 1 if the accelerator's numbers are not the processor's."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path, help="folder for gpu.json and gpu.txt")
    parser.add_argument("--device", default="cuda", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--quick", action="store_true", help="a small model, seconds")
    parser.add_argument("--limit-s", type=float, default=450.0, help="begin nothing after this")
    given = parser.parse_args(arguments)
    try:
        device = device_named(given.device, "--device", Accelerators.seen())
    except CutlayerError as error:
        parser.error(str(error))
    ends = time.monotonic() + given.limit_s
    given.out.mkdir(parents=True, exist_ok=True)
    extent = QUICK if given.quick else FULL
    machine = {
        "device": device_title(device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    # as it is told to be equal: TF32 rounds to ten bits
    torch.backends.cuda.matmul.allow_tf32 = False
    found = Found(given.out, machine)
    with tempfile.TemporaryDirectory() as folder:
        for one in equal(Path(folder), device):
            found.equals.append(one)
            found.keep()
        path = save_model(Path(folder) / "measured", extent, device)
        for base in (Base.BFLOAT16, Base.NF4):
            for peer, ways in (("ours", ours), ("PEFT", with_peft)):
                if time.monotonic() > ends:
                    found.left_out.append(f"{peer}, {base}: no time left")
                    continue
                with _freed(device):
                    _measure(found, ways(path, extent, device, base), base, device, extent, ends)
    found.keep()
    print((given.out / "gpu.txt").read_text(encoding="utf-8"), end="")
    return 0 if all(one.holds for one in found.equals) else 1


def _measure(
    found: Found, ways: Iterator[Way], base: Base, device: torch.device, extent: Extent, ends: float
) -> None:
    """Each of these ways, as long as there is time for it and memory."""
    for way, devices, count, run in ways:
        what = f"{way}, {base}, {devices} devices x {count} rows"
        if time.monotonic() > ends:
            found.left_out.append(f"{what}: no time left")
            continue
        try:
            found.rows.append(timed(way, devices, count, run, base, device, extent.repeats))
        except torch.OutOfMemoryError:
            found.left_out.append(f"{what}: out of memory")
        found.keep()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
