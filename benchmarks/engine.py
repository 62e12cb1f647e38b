"""The engine's figures as ratios: batches of arrivals, a local step beside PEFT's, the journal.

    python benchmarks/engine.py [--quick] [--only WORD ...] [--json FILE]

See README.md here for what each figure answers. Needs `pip install '.[train,net,bench]'`. A row is
a `Figure`; whoever has another one adds the function that measures it to `MEASURED`.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

import numpy as np
import peft
import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cutlayer.codec.codec import CodecPair, Direction
from cutlayer.config.choices import BestCodec
from cutlayer.jobs.build import make_codecs
from cutlayer.model.described import AdapterSpec
from cutlayer.model.load import load_device_part, load_server_part
from cutlayer.model.optimizer import AdamW
from cutlayer.model.placement import HOST
from cutlayer.model.split import DevicePart, ServerPart, device_forward
from cutlayer.net.server.journal import Entry, Journal
from cutlayer.net.wire.frames import bounds_of, encode_message, journal_limits
from cutlayer.net.wire.messages import Activation, Micro, Position
from cutlayer.rounds.batching import ALONE, ServerBatch, ServerBatching
from cutlayer.spec import ActivationPolicy, MiniBatch
from cutlayer.training.exchange import Exchange, Load
from cutlayer.training.server_batch import ServerLoad, serve, server_batch
from cutlayer.training.state import AdapterBank, AdapterState

_CLASSES = 10
_RATE = 1e-3
# a mini-batch's packet and labels in the main job
_PACKET_BYTES, _LABEL_BYTES = 9_000, 16
_JOURNAL_GROUP = 10
_JOURNAL = journal_limits(bounds_of(MiniBatch(16, 17), 384, 1000, 10))
_OPENED = "opened, written, fsync"
_JOURNAL_GOAL = 0.2


@dataclass(frozen=True)
class Figure:
    """One row: what was measured, the ratio, and the goal that it is held to, at least or at most.

    `better`: whether more is. `note`: what the ratio is of.
    """

    name: str
    ratio: float
    goal: float | None
    better: bool
    note: str

    @property
    def met(self) -> bool:
        """Whether the ratio is on the right side of the goal, if there is one."""
        if self.goal is None:
            return True
        return self.ratio >= self.goal if self.better else self.ratio <= self.goal


@dataclass(frozen=True)
class Shape:
    """A DINOv2 with random weights, where it is cut, and a device's mini-batch."""

    name: str
    width: int
    blocks: int
    heads: int
    side_px: int
    cut: int
    samples: int
    rank: int
    goal: float
    codec_goal: float | None
    repeats: int

    @property
    def tokens(self) -> int:
        """Patches of 14 px and the one that the head reads."""
        return (self.side_px // 14) ** 2 + 1


# packets of a tiny model are as much work as its blocks, so its codec is held to nothing
TINY = Shape("tiny", 24, 4, 2, 28, 2, 4, 2, goal=4.0, codec_goal=None, repeats=5)
SMALL = Shape("DINOv2-small", 384, 12, 6, 56, 4, 16, 8, goal=1.2, codec_goal=1.1, repeats=2)


@dataclass(frozen=True)
class Model:
    """The model of a shape in a folder, as a whole and in parts."""

    shape: Shape
    folder: Path

    @staticmethod
    def made(shape: Shape, folder: Path) -> "Model":
        """With random weights."""
        torch.manual_seed(0)
        config = transformers.Dinov2Config(
            hidden_size=shape.width,
            num_hidden_layers=shape.blocks,
            num_attention_heads=shape.heads,
            image_size=shape.side_px,
            num_labels=_CLASSES,
        )
        path = folder / shape.name
        transformers.Dinov2ForImageClassification(config).save_pretrained(path)
        return Model(shape, path)

    @property
    def adapter(self) -> AdapterSpec:
        """On every linear layer, with a trained head."""
        return AdapterSpec(self.shape.rank, float(self.shape.rank), head=True)

    @cached_property
    def device_part(self) -> DevicePart:
        """The device's."""
        cut = self.shape.cut
        return load_device_part(
            self.folder, "image-classification", cut, self.adapter, classes=_CLASSES
        )

    @cached_property
    def server_part(self) -> ServerPart:
        """The server's."""
        cut = self.shape.cut
        return load_server_part(
            self.folder, "image-classification", cut, self.adapter, classes=_CLASSES
        )

    def peft(self) -> torch.nn.Module:
        """The whole model with PEFT's adapters on the same layers and a trained head."""
        model = transformers.Dinov2ForImageClassification.from_pretrained(self.folder)
        own = peft.LoraConfig(
            r=self.shape.rank,
            lora_alpha=self.shape.rank,
            target_modules="all-linear",
            exclude_modules=["classifier"],
            modules_to_save=["classifier"],
        )
        return peft.get_peft_model(model, own)  # type: ignore[arg-type]


def least_s(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Processor seconds of each way, the least of so many turns: it is one thread's, which what
    else the machine does disturbs least. The first turn warms up."""
    found = {name: float("inf") for name in ways}
    for turn in range(repeats + 1):
        for name, run in ways.items():
            began_s = time.process_time()
            run()
            if turn:
                found[name] = min(found[name], time.process_time() - began_s)
    return found


def batches_of_arrivals(folder: Path, *, quick: bool) -> Iterator[Figure]:
    """A server's steps, of devices whose mini-batches wait together: passes and optimiser."""
    for shape in (TINY,) if quick else (TINY, SMALL):
        model = Model.made(shape, folder)
        for count in (8, 32):
            for uneven in (False, True):
                yield _arrivals(model, count, uneven=uneven, repeats=shape.repeats)


def _arrivals(model: Model, count: int, *, uneven: bool, repeats: int) -> Figure:
    shape, part = model.shape, model.server_part
    generator = torch.Generator().manual_seed(1)
    devices = range(count)
    sizes = [shape.samples // (2 if uneven and device % 2 else 1) for device in devices]
    batches = [
        (
            torch.randn(size, shape.tokens, shape.width, generator=generator),
            torch.randint(0, _CLASSES, (size,), generator=generator),
        )
        for size in sizes
    ]
    state = AdapterState(part.adapted.initial_row(0), {})
    bank = AdapterBank(state, range(count), AdamW(), shared=False, device=HOST)

    def loads(places: Sequence[int]) -> list[ServerLoad]:
        rows = bank.gather(places)
        return [
            ServerLoad(row, batches[n][0], None, batches[n][1])
            for n, row in zip(places, rows, strict=True)
        ]

    def step(places: Sequence[int], batching: ServerBatching) -> None:
        replies = serve(part, batching, places, loads(places))
        bank.collect(places, torch.stack([reply.row_gradient for reply in replies]))
        bank.step(dict.fromkeys(places, _RATE))

    def alone() -> None:
        for device in devices:
            step([device], ALONE)

    def together() -> None:
        step(devices, ServerBatching(ServerBatch.ARRIVALS))

    took = least_s({"alone": alone, "together": together}, repeats)
    tokens = f"{shape.samples} x {shape.tokens} tokens" + (" or half" if uneven else "")
    return Figure(
        name=f"server steps/s, {shape.name}, {count} devices of {tokens}",
        ratio=took["alone"] / took["together"],
        goal=shape.goal,
        better=True,
        note=f"arrivals over alone, {1e3 * took['alone'] / count:.3g} ms a step alone",
    )


def local_steps(folder: Path, *, quick: bool) -> Iterator[Figure]:
    """One device's local step, both parts and both optimisers, beside PEFT's of the same batch."""
    for shape in (TINY,) if quick else (TINY, SMALL):
        model = Model.made(shape, folder)
        generator = torch.Generator().manual_seed(1)
        pixels = torch.randn(shape.samples, 3, shape.side_px, shape.side_px, generator=generator)
        labels = torch.randint(0, _CLASSES, (shape.samples,), generator=generator)
        ways = {
            "peft": _peft_step(model.peft(), pixels, labels),
            "ours": _local_step(model, pixels, labels, codecs=None),
            "coded": _local_step(model, pixels, labels, codecs=make_codecs(BestCodec(), 100)),
        }
        took = least_s(ways, repeats=2 * shape.repeats)
        yield Figure(
            name=f"local step, {shape.name}, {shape.samples} x {shape.tokens} tokens",
            ratio=took["ours"] / took["peft"],
            goal=1.05,
            better=False,
            note=f"over PEFT and transformers, which take {1e3 * took['peft']:.3g} ms",
        )
        yield Figure(
            name=f"codec `best` on it, {shape.name}",
            ratio=took["coded"] / took["ours"],
            goal=shape.codec_goal,
            better=False,
            note="the local step with its codec, both ways and both ends, over that without",
        )


def _peft_step(model: torch.nn.Module, pixels: Tensor, labels: Tensor) -> Callable[[], object]:
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=_RATE)

    def step() -> None:
        optimizer.zero_grad()
        model(pixel_values=pixels, labels=labels).loss.backward()
        optimizer.step()

    return step


def _local_step(
    model: Model, pixels: Tensor, labels: Tensor, codecs: CodecPair | None
) -> Callable[[], object]:
    device, server = model.device_part, model.server_part
    sides = [
        AdapterBank(
            AdapterState(part.adapted.initial_row(0), {}), (0,), AdamW(), shared=False, device=HOST
        )
        for part in (device, server)
    ]
    exchange = None if codecs is None else Exchange(codecs, 0, {})
    samples, number = tuple(range(len(labels))), iter(range(10**6))

    def sent(tensor: Tensor, step: int, direction: Direction) -> Tensor:
        if exchange is None:
            return tensor
        load = Load(tensor, None, samples)
        return exchange.send(load, (1, 0, step, 0, direction), HOST).tensor

    def step() -> None:
        at = next(number)
        rows = sides[0].gather([0]).requires_grad_()
        pending = device_forward(
            device, rows, [len(labels)], {"pixel_values": pixels}, ActivationPolicy.KEEP
        )
        arrived = sent(pending.activation, at, Direction.UP)
        load = ServerLoad(sides[1].gather([0])[0], arrived, None, labels)
        (reply,) = server_batch(server, [load])
        pending.backward(sent(reply.gradient, at, Direction.DOWN))
        assert rows.grad is not None
        for side, gradient in zip(sides, (rows.grad, reply.row_gradient[None]), strict=True):
            side.collect([0], gradient)
            side.step({0: _RATE})

    return step


@dataclass(frozen=True)
class JournalRow:
    """An entry [ms], the median over groups; `x`: its wall time over that of a file opened for each
    entry, the median of the ratios of neighbouring groups."""

    name: str
    wall_ms: float
    cpu_ms: float
    x: float


def journal_rows(folder: Path, groups: int = 60) -> list[JournalRow]:
    """So many groups of ten entries in each way, which take turns, on the disk of `folder`."""
    journal = Journal(folder, _JOURNAL)
    rng = np.random.default_rng(0)
    ways: dict[str, Callable[[Sequence[Entry]], None]] = {
        _OPENED: lambda entries: _write_opened(folder / "opened", entries),
        "kept open, each by itself": lambda entries: _write_alone(journal, entries),
        f"kept open, groups of {_JOURNAL_GROUP}": lambda entries: journal.append(2, entries),
    }
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(groups):
        entries = [_entry(rng.bytes(_PACKET_BYTES)) for _ in range(_JOURNAL_GROUP)]
        for name, write in ways.items():
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            write(entries)
            cpu[name].append((time.process_time() - began_cpu_s) / _JOURNAL_GROUP)
            wall[name].append((time.perf_counter() - began_s) / _JOURNAL_GROUP)
    return [
        JournalRow(
            name,
            1e3 * median(wall[name]),
            1e3 * median(cpu[name]),
            median(own / old for own, old in zip(wall[name], wall[_OPENED], strict=True)),
        )
        for name in ways
    ]


def _entry(packet: bytes) -> Entry:
    labels = bytes(_LABEL_BYTES)
    return Entry(0, Activation(Position(1, 0, 0), Micro(1.0, True), packet, labels, (0,) * 16))


def _write_opened(path: Path, entries: Sequence[Entry]) -> None:
    """As a journal may be written most simply."""
    for entry in entries:
        with path.open("ab") as file:
            file.write(encode_message(entry.message, 0))
            file.flush()
            os.fsync(file.fileno())


def _write_alone(journal: Journal, entries: Sequence[Entry]) -> None:
    for entry in entries:
        journal.append(1, [entry])


def journal_entries(folder: Path, *, quick: bool) -> Iterator[Figure]:
    """An entry of the server's journal in groups of ten."""
    row = journal_rows(folder, groups=10 if quick else 60)[-1]
    yield Figure(
        name="journal, wall time an entry in groups of 10",
        ratio=row.x,
        goal=_JOURNAL_GOAL,
        better=False,
        note="over a file opened for each entry",
    )


# by the word that `--only` takes
MEASURED: dict[str, Callable[..., Iterator[Figure]]] = {
    "batches": batches_of_arrivals,
    "step": local_steps,
    "journal": journal_entries,
}


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the tiny model alone, few repeats")
    parser.add_argument("--only", nargs="+", choices=list(MEASURED), metavar="WORD")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure by name")
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    began_s = time.monotonic()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only or MEASURED:
            for figure in MEASURED[name](Path(folder), quick=arguments.quick):
                figures.append(figure)
                print(f"{figure.ratio:8.3f}  {figure.name}", file=sys.stderr)
    about = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "wall_s": round(time.monotonic() - began_s, 1),
    }
    _print(figures, about)
    if arguments.json:
        rows = [{**asdict(figure), "met": figure.met} for figure in figures]
        text = json.dumps({"about": about, "figures": rows}, indent=1)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    return 0 if all(figure.met for figure in figures) else 1


def _print(figures: Sequence[Figure], about: Mapping[str, object]) -> None:
    table = Table(box=None, pad_edge=False, title="The engine, one thread", title_justify="left")
    for head in ("", "ratio", "goal", ""):
        table.add_column(head, justify="right" if head else "left")
    table.add_column("of")
    for figure in figures:
        goal, verdict = "", ""
        if figure.goal is not None:
            goal = f"{'>=' if figure.better else '<='} {figure.goal}"
            verdict = "met" if figure.met else "MISSED"
        table.add_row(figure.name, f"{figure.ratio:.3f}", goal, verdict, figure.note)
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    console.print(table)
    console.print(f"torch {about['torch']}, PEFT {about['peft']}; {about['wall_s']} s")


if __name__ == "__main__":
    sys.exit(main())
