"""Fig. 6 of the paper: a device's memory by the number of transformer blocks it holds.

    python -m reproduction fig6         2 s; expected/fig6.csv, expected/fig6-claims.csv

Analytic, at full size. The paper prints no number of it but those of Table III; its text says that
memory grows in proportion to the blocks and that FL exceeds the device.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.report.drawing import INK, new_figure
from cutlayer.report.wording import DEVICE_COLOUR, OTHER_COLOUR
from cutlayer.rounds.memory import device_memory, paper_memory
from cutlayer.rounds.vit import VIT_BASE, vit_spec
from cutlayer.spec import ActivationPolicy, MiniBatch, MiniBatchPolicy
from cutlayer.units import MIB
from reproduction.catalogue import Cells, Made, Options, caption, write
from reproduction.claims import Claim, Said, judge_larger
from reproduction.table3 import calibrated_memory

SAMPLES = 64
MICRO_BATCHES = 16
DEVICE_MIB = 8192.0
SMALL_DEVICE_MIB = 4096.0


@dataclass(frozen=True)
class Curves:
    """MiB for 1, 2, ..., 12 blocks on the device, by the way of counting or of holding."""

    table: tuple[float, ...]
    equations: tuple[float, ...]
    keep: tuple[float, ...]
    checkpoint: tuple[float, ...]
    micro: tuple[float, ...]

    def fitting(self, curve: tuple[float, ...], limit_mib: float) -> int:
        """The most blocks within the limit."""
        return sum(size <= limit_mib for size in curve)


def curves_of() -> Curves:
    """All curves; from 12 blocks on the device holds the head too."""
    spec, batch = vit_spec(VIT_BASE), MiniBatch(SAMPLES, VIT_BASE.tokens)
    cuts = range(1, spec.blocks + 1)

    def held(activation_memory: ActivationPolicy, micro_batches: int) -> tuple[float, ...]:
        policy = MiniBatchPolicy(activation_memory, micro_batches)
        return tuple(device_memory(spec, cut, batch, policy).total / MIB for cut in cuts)

    return Curves(
        table=tuple(calibrated_memory(VIT_BASE, cut, SAMPLES).total / MIB for cut in cuts),
        equations=tuple(paper_memory(spec, cut, batch).total / MIB for cut in cuts),
        keep=held(ActivationPolicy.KEEP, 1),
        checkpoint=held(ActivationPolicy.CHECKPOINT, 1),
        micro=held(ActivationPolicy.KEEP, MICRO_BATCHES),
    )


PUBLISHED_WHOLE = Decimal("9896.69")
SETTING = (
    "ViT-B/16, 64 images of 224 px, float32, SGD with momentum, LoRA of rank 16 on every layer;"
    " computed, nothing is trained"
)


def make(options: Options, output: Path) -> Made:
    """Count, judge, write; no option matters."""
    curves = curves_of()
    tables = {"fig6": _rows(curves)}
    return write("fig6", output, SETTING, claims_of(curves), tables, lambda: draw(curves, SETTING))


def claims_of(curves: Curves) -> tuple[Claim, ...]:
    """What the text says of the figure."""
    return _proportional(curves), _exceeds(curves), _equations_exceed(curves)


def _rows(curves: Curves) -> Iterator[Cells]:
    columns = {
        "table_iii_mib": curves.table,
        "equations_mib": curves.equations,
        "keep_mib": curves.keep,
        "checkpoint_mib": curves.checkpoint,
        f"{MICRO_BATCHES}_micro_batches_mib": curves.micro,
    }
    for place in range(len(curves.table)):
        sizes = {name: f"{column[place]:.2f}" for name, column in columns.items()}
        yield {"blocks": place + 1, **sizes}


def _proportional(curves: Curves) -> Claim:
    twice, ours = Decimal("2.0"), curves.table[9] / curves.table[4]
    said = Said("memory of 10 blocks over that of 5", "a proportional increase", "times", twice)
    return said.number(
        ours,
        f"What does not grow (patches, input) is {2 * curves.table[4] - curves.table[9]:.0f} MiB of"
        f" {curves.table[4]:.0f}; by autograd the ratio is {curves.keep[9] / curves.keep[4]:.2f}.",
    )


def _exceeds(curves: Curves) -> Claim:
    table, keep = curves.table, curves.keep
    said = Said("the whole model on a device of 8 GiB", "exceeds this memory limit", "MiB")
    return said.judged(
        table[-1],
        judge_larger(table[-1], DEVICE_MIB, noise=0.0),
        f"By Table III's count {curves.fitting(table, DEVICE_MIB)} blocks fit into"
        f" {DEVICE_MIB:.0f} MiB and {curves.fitting(table, SMALL_DEVICE_MIB)} into"
        f" {SMALL_DEVICE_MIB:.0f}; what autograd holds with fused attention is {keep[-1]:.0f} MiB,"
        f" {curves.micro[-1]:.0f} in {MICRO_BATCHES} micro-batches one after the other.",
    )


def _equations_exceed(curves: Curves) -> Claim:
    implied = curves.equations[-1]
    said = Said(
        "the whole model by equations (33) and (34)",
        f"{PUBLISHED_WHOLE} MB",
        "MiB",
        PUBLISHED_WHOLE,
    )
    return said.number(
        curves.keep[-1],
        f"The equations give {implied:.0f} MiB for all 12 blocks, which fits the device that the"
        " figure says it does not fit.",
        implied=implied,
    )


_OURS = "#1f5a93"
_EQUATIONS = "#b3560f"
_LIMIT = "#b3282d"
# Table III: the split schemes at 5 blocks, FL-LoRA
_PUBLISHED = ((5, 12), (4122.92, 9896.69))


def draw(curves: Curves, setting: str) -> Figure:
    """A line for each way of counting; call it inside `plain_style`."""
    figure = new_figure(430)
    axes = figure.subplots()
    _line(axes, curves.table, OTHER_COLOUR, "inferred accounting of Table III", "-")
    axes.plot(*_PUBLISHED, "D", color=INK, markersize=6, label="Table III as published")
    _line(axes, curves.keep, _OURS, "autograd, measured", "-")
    _line(axes, curves.equations, _EQUATIONS, "the paper's equations (33), (34)", "--")
    _line(axes, curves.checkpoint, DEVICE_COLOUR, "autograd, a checkpoint a block", "-")
    micro = f"autograd, {MICRO_BATCHES} micro-batches in turn"
    _line(axes, curves.micro, DEVICE_COLOUR, micro, "--")
    for limit, name in ((DEVICE_MIB, "8 GiB (Orin Nano)"), (SMALL_DEVICE_MIB, "4 GiB")):
        axes.axhline(limit, color=_LIMIT, linewidth=1.2)
        axes.text(0.55, limit + 90, name, color=_LIMIT, fontsize=10.5)
    axes.set_xlim(0.5, 12.5)
    axes.set_xticks(range(1, 13))
    axes.set_ylim(0, 10_600)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("transformer blocks on the device (12: the whole model)")
    axes.set_ylabel("MiB")
    figure.legend(loc="outside right center", handlelength=2.2, labelspacing=0.9)
    caption(figure, setting)
    return figure


def _line(axes: Axes, sizes: tuple[float, ...], colour: str, label: str, style: str) -> None:
    blocks = range(1, len(sizes) + 1)
    axes.plot(blocks, sizes, style, color=colour, marker="o", markersize=3.5, label=label)
