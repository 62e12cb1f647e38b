"""Table I of the paper: what mobile devices hold, and what language models need.

    python -m reproduction table1       2 s; expected/table1.csv, expected/table1-claims.csv

Arithmetic alone, beside the data sheets' memories and what the text makes of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cutlayer.report.drawing import INK, new_figure
from cutlayer.report.wording import DEVICE_COLOUR, OTHER_COLOUR
from reproduction.catalogue import Cells, Made, Options, caption, write
from reproduction.claims import Claim, Said, Verdict, judge_larger, judge_number

SETTING = "float32 weights alone, in GB of 10^9 bytes; nothing is trained"
_FLOAT32_BYTES = 4
_MODEL_COLOUR = "#1f5a93"


@dataclass(frozen=True)
class Row:
    """A line of the table: memory as published and as it follows [GB], and why."""

    name: str
    published: Decimal
    ours: float
    reason: str


def _model(name: str, billions: float, published: str, reason: str) -> Row:
    return Row(name, Decimal(published), billions * _FLOAT32_BYTES, reason)


MODELS = (
    _model("LLaMA-7B", 7, "28", "7 billion float32; published with 6.74 billion, 26.95 GB."),
    _model("LLaMA-65B", 65, "260", "65 billion float32."),
    _model("GPT-3", 175, "700", "175 billion float32."),
    _model("PaLM", 540, "2150", "540 billion float32 are 2.16 TB, published as 2.15."),
)
DEVICES = (
    Row("Raspberry Pi-4B", Decimal("4"), 4.0, "It is sold with 1, 2, 4 and 8 GB."),
    Row(
        "Jetson Nano",
        Decimal("8"),
        4.0,
        "NVIDIA's Jetson Nano has 4 GB and 128 cores; 8 GB is the Jetson Orin Nano, which Fig. 6"
        " names, and 256 cores, which Section VIII-A gives it, are those of the TX2.",
    ),
    Row("Jetson TX2", Decimal("8"), 8.0, "As its data sheet has it; with 256 cores."),
    Row("Jetson Xavier NX", Decimal("16"), 16.0, "It is sold with 8 and 16 GB."),
)


def make(options: Options, output: Path) -> Made:
    """Judge, write; no option matters."""
    return write("table1", output, SETTING, claims_of(), {"table1": _rows()}, draw)


def claims_of() -> tuple[Claim, ...]:
    """Each memory, and that no device holds any of the models."""
    rows = [_memory(row) for row in (*DEVICES, *MODELS)]
    smallest, largest = min(m.ours for m in MODELS), max(d.ours for d in DEVICES)
    said = Said(
        "the smallest model on the largest device", "cannot meet the memory requirements", "GB"
    )
    compared = said.judged(
        smallest,
        judge_larger(smallest, largest, noise=0.0),
        f"{smallest:.0f} GB of weights against {largest:.0f} GB, in float32; in float16 its"
        f" {smallest / 2:.0f} GB would fit, without anything to train it with.",
    )
    return (*rows, compared)


def draw() -> Figure:
    """Bars on a logarithmic scale, published in grey; call it inside `plain_style`."""
    figure = new_figure(430)
    axes = figure.subplots()
    rows = (*DEVICES, *MODELS)
    for place, row in enumerate(rows):
        colour = DEVICE_COLOUR if row in DEVICES else _MODEL_COLOUR
        published = float(row.published)
        axes.barh(place - 0.19, published, height=0.36, color=OTHER_COLOUR)
        axes.barh(place + 0.19, row.ours, height=0.36, color=colour)
        verdict = _memory(row).verdict
        note = "" if verdict is Verdict.EXACT else f"  ({verdict.value})"
        both = (
            f"{row.ours:g}" if row.ours == published else f"{row.ours:g}, published {published:g}"
        )
        text = f" {both}{note}"
        axes.text(max(published, row.ours), place, text, va="center", fontsize=10.5, color=INK)
    axes.set_xscale("log")
    axes.set_xlim(1, 30_000)
    axes.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
    axes.xaxis.set_tick_params(which="minor", size=0)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.grid(True, axis="x")
    axes.set_xlabel("memory [GB]")
    named = {
        "paper": OTHER_COLOUR,
        "a device has": DEVICE_COLOUR,
        "a model's float32 weights need": _MODEL_COLOUR,
    }
    handles = [Patch(color=colour, label=name) for name, colour in named.items()]
    axes.legend(handles=handles, loc="upper right")
    caption(figure, SETTING)
    return figure


def _memory(row: Row) -> Claim:
    verdict = judge_number(row.published, row.ours)
    name = f"memory of {row.name}"
    said = Said(name, f"{row.published} GB", "GB", row.published)
    return said.judged(row.ours, verdict, row.reason)


def _rows() -> Iterator[Cells]:
    for kind, rows in (("device", DEVICES), ("model", MODELS)):
        for row in rows:
            named = {"name": row.name, "kind": kind}
            yield {**named, "published_gb": row.published, "ours_gb": f"{row.ours:g}"}
