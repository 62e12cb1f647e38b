"""Fig. 6 of the paper: a device's memory by the number of transformer blocks it holds.

Analytic, at full size. The paper prints no number of it but those of Table III; its text says that
memory grows in proportion to the blocks and that FL exceeds the device. Knows what is written and
claimed; the curves and the drawing are in files of their own.
"""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from cutlayer.report.drawing import plain_style
from cutlayer.report.save import save_figure, save_table
from reproduction.claims import CLAIM_COLUMNS, Claim, claim_rows, judge_larger, judge_number
from reproduction.fig6_curves import (
    DEVICE_MIB,
    MICRO_BATCHES,
    SMALL_DEVICE_MIB,
    Curves,
    curves_of,
)
from reproduction.fig6_drawing import draw
from reproduction.options import Made, Options

COLUMNS = (
    "blocks",
    "table_iii_mib",
    "equations_mib",
    "keep_mib",
    "checkpoint_mib",
    f"{MICRO_BATCHES}_micro_batches_mib",
)
PRINTED_WHOLE = Decimal("9896.69")
SETTING = (
    "ViT-B/16, 64 images of 224 px, float32, SGD with momentum, LoRA of rank 16 on every layer;"
    " computed, nothing is trained"
)


def make(options: Options, output: Path) -> Made:
    """Write fig6.csv, fig6-claims.csv, .png and .svg. No option matters.

    Raises RunError for an output that cannot be written.
    """
    curves = curves_of()
    claims = claims_of(curves)
    output.mkdir(parents=True, exist_ok=True)
    tables = (
        save_table(output / "fig6.csv", COLUMNS, _rows(curves)),
        save_table(output / "fig6-claims.csv", CLAIM_COLUMNS, claim_rows(claims)),
    )
    with plain_style():
        pictures = save_figure(output / "fig6", draw(curves, SETTING))
    return Made(SETTING, claims, (*tables, *pictures))


def claims_of(curves: Curves) -> tuple[Claim, ...]:
    """What the text says of the figure."""
    return _proportional(curves), _exceeds(curves), _equations_exceed(curves)


def _rows(curves: Curves) -> Iterator[tuple[str, ...]]:
    columns = (curves.table, curves.equations, curves.keep, curves.checkpoint, curves.micro)
    for number, sizes in enumerate(zip(*columns, strict=True), start=1):
        yield (str(number), *(f"{size:.2f}" for size in sizes))


def _proportional(curves: Curves) -> Claim:
    twice, ours = Decimal("2.0"), curves.table[9] / curves.table[4]
    return Claim(
        "memory of 10 blocks over that of 5",
        "a proportional increase",
        twice,
        ours,
        "times",
        judge_number(twice, ours),
        f"What does not grow (patches, input) is {2 * curves.table[4] - curves.table[9]:.0f} MiB of"
        f" {curves.table[4]:.0f}; by autograd the ratio is {curves.keep[9] / curves.keep[4]:.2f}.",
    )


def _exceeds(curves: Curves) -> Claim:
    table, keep = curves.table, curves.keep
    return Claim(
        "the whole model on a device of 8 GiB",
        "exceeds this memory limit",
        None,
        table[-1],
        "MiB",
        judge_larger(table[-1], DEVICE_MIB, noise=0.0),
        f"By Table III's count {curves.fitting(table, DEVICE_MIB)} blocks fit into"
        f" {DEVICE_MIB:.0f} MiB and {curves.fitting(table, SMALL_DEVICE_MIB)} into"
        f" {SMALL_DEVICE_MIB:.0f}; what autograd holds with fused attention is {keep[-1]:.0f} MiB,"
        f" {curves.micro[-1]:.0f} in {MICRO_BATCHES} micro-batches one after the other.",
    )


def _equations_exceed(curves: Curves) -> Claim:
    implied = curves.equations[-1]
    return Claim(
        "the whole model by equations (33) and (34)",
        f"{PRINTED_WHOLE} MB",
        PRINTED_WHOLE,
        curves.keep[-1],
        "MiB",
        judge_number(PRINTED_WHOLE, curves.keep[-1], implied=implied),
        f"The equations give {implied:.0f} MiB for all 12 blocks, which fits the device that the"
        " figure says it does not fit.",
    )
