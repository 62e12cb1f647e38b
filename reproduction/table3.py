"""Table III of the paper: what a device holds, by scheme.

Analytic, at full size: ViT-B, 64 images of 224 px, 5 blocks on the device. Knows what is written
and what is claimed; the columns and the drawing are in files of their own.
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

from cutlayer.report.drawing import plain_style
from cutlayer.report.save import save_figure, save_table
from reproduction.claims import CLAIM_COLUMNS, Claim, Reference, claim_rows, judge_number
from reproduction.options import Made, Options
from reproduction.table3_columns import ROWS, WAYS, Column, columns
from reproduction.table3_drawing import draw

SETTING = (
    "ViT-B/16, 64 images of 224 px, float32, SGD with momentum, LoRA of rank 16 on every layer;"
    " computed, nothing is trained"
)
COLUMNS = ("scheme", "row", "printed_mib", *(f"{way}_mib" for way in WAYS))
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
        "The same again; the printed FL column is 3.6 % below FL-LoRA's, though adapters add less"
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
        "A momentum for each weight is as large as the model; the printed one is 1.88 MiB larger,"
        " which no tensor of the model explains."
    ),
}


def make(options: Options, output: Path) -> Made:
    """Write table3.csv, table3-claims.csv, .png and .svg. No option matters.

    Raises RunError for an output that cannot be written.
    """
    found = columns()
    claims = claims_of(found)
    output.mkdir(parents=True, exist_ok=True)
    tables = (
        save_table(output / "table3.csv", COLUMNS, _rows(found)),
        save_table(output / "table3-claims.csv", CLAIM_COLUMNS, claim_rows(claims)),
    )
    with plain_style():
        pictures = save_figure(output / "table3", draw(found, SETTING))
    return Made(SETTING, claims, (*tables, *pictures))


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


def _rows(found: Sequence[Column]) -> Iterator[tuple[str, ...]]:
    for column in found:
        for row in ROWS:
            counted = (f"{column.row(way, row):.4f}" for way in WAYS)
            yield column.name, row, str(column.printed[row]), *counted


def _number(column: Column, row: str, reference: Column | None) -> Claim:
    printed, ours = column.printed[row], column.row("calibrated", row)
    beside = None
    if reference is not None:
        beside = Reference(reference.printed[row], reference.row("calibrated", row))
    reason = _REASONS.get((row, column.name)) or _ROW_REASONS[row]
    name = row if row == "input" else f"{row}, {column.name}"
    return Claim(
        name,
        f"{printed} MB",
        printed,
        ours,
        "MiB",
        judge_number(printed, ours, reference=beside),
        reason.format(physical=column.row("physical", row)),
    )


def _ratio(column: Column, split: Column, printed: Decimal) -> Claim:
    ours = column.row("calibrated", "total") / split.row("calibrated", "total")
    implied = float(column.printed["total"] / split.printed["total"])
    physical = column.row("physical", "total") / split.row("physical", "total")
    return Claim(
        f"total, {column.name} over split",
        f"{printed}x",
        printed,
        ours,
        "times",
        judge_number(printed, ours, implied=implied),
        f"The printed totals give {implied:.3f}; what autograd holds gives {physical:.2f}.",
    )


def _reduction(fl: Column, split: Column) -> Claim:
    def percent(small: float, large: float) -> float:
        return 100 * (1 - small / large)

    ours = percent(split.row("calibrated", "total"), fl.row("calibrated", "total"))
    implied = percent(float(split.printed["total"]), float(fl.printed["total"]))
    physical = percent(split.row("physical", "total"), fl.row("physical", "total"))
    return Claim(
        "memory saved by splitting",
        f"{REDUCTION_PERCENT} %",
        REDUCTION_PERCENT,
        ours,
        "%",
        judge_number(REDUCTION_PERCENT, ours, implied=implied),
        f"The printed totals give {implied:.2f} %; what autograd holds gives {physical:.1f} %.",
    )


def _equations(column: Column) -> Claim:
    """The paper's equations (29) to (34) for the same device."""
    printed, ours = column.printed["total"], column.row("physical", "total")
    implied = column.row("equations", "total")
    return Claim(
        f"total, {column.name}, by equations (29) to (34)",
        f"{printed} MB",
        printed,
        ours,
        "MiB",
        judge_number(printed, ours, implied=implied),
        f"The paper's own equations give {implied:.0f} MiB: their 34 and 5 bytes are those of"
        " float16 beside weights of float32, and they charge frozen weights with gradients and"
        " optimizer; ours is what autograd holds, gradients of the adapters included.",
    )
