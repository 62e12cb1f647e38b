"""Table III of the paper: what a device holds, by scheme.

    python -m reproduction table3       2 s; expected/table3.csv, expected/table3-claims.csv

Analytic, at full size: ViT-B, 64 images of 224 px, 5 blocks on the device. Counted three ways: by
the paper's equations, as autograd holds it, and by an accounting inferred from the table's own
rows, which meets 4122.92 MB where the equations give 2716.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.errors import ConfigError
from cutlayer.report.drawing import INK, new_figure
from cutlayer.report.wording import MEMORY_KINDS
from cutlayer.rounds.memory import PartMemory, device_memory, paper_memory
from cutlayer.rounds.vit import (
    VIT_BASE,
    VitDimensions,
    block_adapter_parameters,
    exact_block_parameters,
    head_parameters,
    patch_convolution_parameters,
    vit_spec,
)
from cutlayer.spec import MiniBatch, Trained
from cutlayer.units import MIB
from reproduction.catalogue import Cells, Made, Options, caption, write
from reproduction.claims import Claim, Reference, Said

LINEAR_BYTES = 70
ATTENTION_BYTES = 5
_FLOAT32_BYTES = 4


def calibrated_memory(
    dimensions: VitDimensions,
    blocks: int,
    samples: int,
    *,
    trained: Trained = Trained.ADAPTERS,
) -> PartMemory[float]:
    """What Table III counts for a device with the first `blocks` of a ViT [byte]; all of them is
    the whole model, head included (its FL columns).

    Weights: exact blocks and the patch convolution, without class token and positions; the whole
    model has its head twice. Adapters: fused qkv, hence 16Dr a block; the whole model adapts patch
    convolution and head too. Optimiser: one float32 for each adapter value but the head's. There is
    no row of gradients. Activations: `70 BND + 5 BN^2 A` a block, which meets the split column
    within 0.1 % and the FL columns within 4 %; the published ones were probably measured.
    Raises ConfigError for a number of blocks that is not.
    """
    if not 1 <= blocks <= dimensions.blocks:
        raise ConfigError(f"blocks is {blocks}; {dimensions.name} has 1..{dimensions.blocks}")
    d = replace(dimensions, fused_qkv=True)
    weights, adapters, stepped = _split(d, blocks)
    if blocks == d.blocks:
        weights, adapters, stepped = _whole(d)
    if trained is Trained.WEIGHTS:
        adapters, stepped = 0, weights
    B, N, D = samples, d.tokens, d.width
    kept = LINEAR_BYTES * B * N * D + ATTENTION_BYTES * B * N**2 * d.heads
    return PartMemory(
        weights=_FLOAT32_BYTES * weights,
        adapters=_FLOAT32_BYTES * adapters,
        gradients=0,
        optimizer=_FLOAT32_BYTES * stepped,
        activations=blocks * kept,
        input=_FLOAT32_BYTES * B * d.channels * d.image_side**2,
        codec=0,
    )


def _split(d: VitDimensions, blocks: int) -> tuple[int, int, int]:
    """Weights, adapters, and how many values the optimiser steps."""
    weights = blocks * exact_block_parameters(d) + patch_convolution_parameters(d)
    adapters = blocks * block_adapter_parameters(d)
    return weights, adapters, adapters


def _whole(d: VitDimensions) -> tuple[int, int, int]:
    stepped = d.blocks * block_adapter_parameters(d) + d.rank * (d.patch_values + d.width)
    head_adapter = d.rank * (d.width + d.classes)
    return vit_spec(d).parameters + head_parameters(d), stepped + head_adapter, stepped


SAMPLES = 64
ROWS = ("input", "activations", "model and adapters", "optimizer", "total")
# the table's own count, what autograd holds, and the paper's equations
WAYS = ("calibrated", "physical", "equations")


@dataclass(frozen=True)
class Column:
    """A scheme of Table III: what a device holds [MiB] as published, and as counted each way."""

    name: str
    blocks: int
    published: Mapping[str, Decimal]
    counted: Mapping[str, PartMemory[float]]

    def row(self, way: str, row: str) -> float:
        """A row of the table by one way of counting [MiB]."""
        memory = self.counted[way]
        size = {
            "input": memory.input,
            "activations": memory.activations,
            "model and adapters": memory.weights + memory.adapters,
            "optimizer": memory.optimizer,
            "total": memory.total,
        }[row]
        return size / MIB


def columns() -> tuple[Column, ...]:
    """The split schemes, FL with LoRA, FL with all weights: ViT-B, batch 64, SGD with momentum."""
    return (
        _column("split, 5 blocks", 5, Trained.ADAPTERS, ("3941.23", "141.19", "3.75", "4122.92")),
        _column("FL-LoRA", 12, Trained.ADAPTERS, ("9513.82", "337.03", "9.09", "9896.69")),
        _column("FL", 12, Trained.WEIGHTS, ("9171.11", "327.88", "329.76", "9865.5")),
    )


def _column(name: str, blocks: int, trained: Trained, published: tuple[str, ...]) -> Column:
    spec, batch = vit_spec(VIT_BASE), MiniBatch(SAMPLES, VIT_BASE.tokens)
    values = [Decimal(value) for value in ("36.75", *published)]
    return Column(
        name,
        blocks,
        dict(zip(ROWS, values, strict=True)),
        {
            "calibrated": calibrated_memory(VIT_BASE, blocks, SAMPLES, trained=trained),
            "physical": device_memory(spec, blocks, batch, trained=trained),
            "equations": paper_memory(spec, blocks, batch, trained=trained),
        },
    )


SETTING = (
    "ViT-B/16, 64 images of 224 px, float32, SGD with momentum, LoRA of rank 16 on every layer;"
    " computed, nothing is trained"
)
REDUCTION_PERCENT = Decimal("58.2")
_ROW_REASONS = {
    "input": "64 x 3 x 224 x 224 float32.",
    "total": "The sum of the rows; gradients have none, though equation (31) counts them.",
}
_REASONS = {
    ("activations", "split, 5 blocks"): (
        "70 BND + 5 BN^2 A bytes a block, found from the table and not from the paper, whose 34 and"
        " 5 are bytes of float16; autograd holds {physical:.0f} MiB with fused attention."
    ),
    ("activations", "FL-LoRA"): "The same 70 and 5 for twelve blocks.",
    ("activations", "FL"): (
        "The same again; the published FL column is 3.6 % below FL-LoRA's, though adapters add less"
        " than 1 % to what autograd keeps."
    ),
    ("model and adapters", "split, 5 blocks"): (
        "Five exact blocks and the patch convolution, without class token and positions, and 16Dr"
        " adapter values a block (query, key and value share one), where the text has 18Dr."
    ),
    ("model and adapters", "FL-LoRA"): (
        "The whole model with its 100-class head twice, 16Dr a block, and adapters on patch"
        " convolution and head."
    ),
    ("model and adapters", "FL"): "The whole model with its 100-class head twice.",
    ("optimizer", "split, 5 blocks"): (
        "A momentum for each of 5 x 16Dr adapter values: trained values alone, where equation (30)"
        " charges frozen weights too."
    ),
    ("optimizer", "FL-LoRA"): "A momentum for 12 x 16Dr values and an adapter on the patches.",
    ("optimizer", "FL"): (
        "A momentum for each weight is as large as the model; the published one is 1.88 MiB larger,"
        " which no tensor of the model explains."
    ),
}


def make(options: Options, output: Path) -> Made:
    """Count, judge, write; no option matters."""
    found = columns()
    tables = {"table3": _rows(found)}
    return write("table3", output, SETTING, claims_of(found), tables, lambda: draw(found, SETTING))


def claims_of(found: Sequence[Column]) -> tuple[Claim, ...]:
    """Each number of the table, the ratios beside it, and what the equations say instead."""
    split, fl_lora, fl = found
    numbers = [_number(split, "input", None)]
    for row in ROWS[1:]:
        numbers += [
            _number(split, row, None),
            _number(fl_lora, row, split),
            _number(fl, row, split),
        ]
    return (
        *numbers,
        _ratio(fl, split, Decimal("2.39")),
        _ratio(fl_lora, split, Decimal("2.4")),
        _reduction(fl, split),
        _equations(split),
        _equations(fl_lora),
    )


def _rows(found: Sequence[Column]) -> Iterator[Cells]:
    for column in found:
        for row in ROWS:
            counted = {f"{way}_mib": f"{column.row(way, row):.4f}" for way in WAYS}
            published = {"published_mib": column.published[row]}
            yield {"scheme": column.name, "row": row, **published, **counted}


def _number(column: Column, row: str, reference: Column | None) -> Claim:
    published, ours = column.published[row], column.row("calibrated", row)
    beside = None
    if reference is not None:
        beside = Reference(reference.published[row], reference.row("calibrated", row))
    reason = _REASONS.get((row, column.name)) or _ROW_REASONS[row]
    name = row if row == "input" else f"{row}, {column.name}"
    said = Said(name, f"{published} MB", "MiB", published)
    return said.number(ours, reason.format(physical=column.row("physical", row)), reference=beside)


def _ratio(column: Column, split: Column, published: Decimal) -> Claim:
    ours = column.row("calibrated", "total") / split.row("calibrated", "total")
    implied = float(column.published["total"] / split.published["total"])
    physical = column.row("physical", "total") / split.row("physical", "total")
    said = Said(f"total, {column.name} over split", f"{published}x", "times", published)
    return said.number(
        ours,
        f"The published totals give {implied:.3f}; what autograd holds gives {physical:.2f}.",
        implied=implied,
    )


def _reduction(fl: Column, split: Column) -> Claim:
    def percent(small: float, large: float) -> float:
        return 100 * (1 - small / large)

    ours = percent(split.row("calibrated", "total"), fl.row("calibrated", "total"))
    implied = percent(float(split.published["total"]), float(fl.published["total"]))
    physical = percent(split.row("physical", "total"), fl.row("physical", "total"))
    said = Said("memory saved by splitting", f"{REDUCTION_PERCENT} %", "%", REDUCTION_PERCENT)
    return said.number(
        ours,
        f"The published totals give {implied:.2f} %; what autograd holds gives {physical:.1f} %.",
        implied=implied,
    )


def _equations(column: Column) -> Claim:
    """The paper's equations (29) to (34) for the same device."""
    published, ours = column.published["total"], column.row("physical", "total")
    implied = column.row("equations", "total")
    said = Said(
        f"total, {column.name}, by equations (29) to (34)", f"{published} MB", "MiB", published
    )
    return said.number(
        ours,
        f"The paper's own equations give {implied:.0f} MiB: their 34 and 5 bytes are those of"
        " float16 beside weights of float32, and they charge frozen weights with gradients and"
        " optimizer; ours is what autograd holds, gradients of the adapters included.",
        implied=implied,
    )


_LABELS = {
    "published": "Table III as published",
    "calibrated": "inferred accounting",
    "physical": "autograd, measured",
    "equations": "the paper's equations (29) to (34)",
}
# kinds of memory that a published row stands for
_KINDS = {
    "activations": "activations",
    "model and adapters": "weights",
    "optimizer": "optimizer",
    "input": "input",
}
_DRAWN = ("activations", "weights", "adapters", "gradients", "optimizer", "input")
_GAP = 0.8


def draw(columns: Sequence[Column], setting: str) -> Figure:
    """A bar for each way of counting, in groups of schemes; call it inside `plain_style`."""
    figure = new_figure(520)
    axes = figure.subplots()
    place, places, labels = 0.0, [], []
    for column in columns:
        axes.text(0, place - 0.85, column.name, weight="bold", va="center", color=INK)
        for way in ("published", *WAYS):
            _bar(axes, place, _sizes(column, way))
            places.append(place)
            labels.append(_LABELS[way])
            place += 1.0
        place += _GAP + 0.3
    axes.set_yticks(places, labels)
    axes.set_ylim(place - _GAP - 0.6, -1.3)
    axes.set_xlim(0, 11_800)
    axes.grid(False, axis="y")
    axes.grid(True, axis="x")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("MiB on a device")
    handles, names = axes.get_legend_handles_labels()
    shown = dict(zip(names, handles, strict=True))
    figure.legend(
        shown.values(), shown.keys(), loc="outside lower left", ncols=len(shown), handlelength=1.2
    )
    caption(figure, setting)
    return figure


def _sizes(column: Column, way: str) -> dict[str, float]:
    """MiB by kind; a published row of weights and adapters counts as weights."""
    if way == "published":
        return {kind: float(column.published[row]) for row, kind in _KINDS.items()}
    memory = column.counted[way]
    return {
        "activations": memory.activations / MIB,
        "weights": memory.weights / MIB,
        "adapters": memory.adapters / MIB,
        "gradients": memory.gradients / MIB,
        "optimizer": memory.optimizer / MIB,
        "input": memory.input / MIB,
    }


def _bar(axes: Axes, place: float, sizes: dict[str, float]) -> None:
    left = 0.0
    for kind in _DRAWN:
        size = sizes.get(kind, 0.0)
        word = MEMORY_KINDS[kind]
        axes.barh(place, size, left=left, height=0.72, color=word.colour, label=word.label)
        left += size
    axes.text(left + 60, place, f"{left:,.0f}", va="center", fontsize=10.5, color=INK)
