"""Table II of the paper: its parameters beside its text and what its results imply.

    python -m reproduction table2       2 s; expected/table2.csv, expected/table2-claims.csv

Arithmetic alone: the bandwidth, both computing rates and the hidden dimension contradict the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import sqrt
from pathlib import Path

from matplotlib.figure import Figure

from cutlayer.channel.rates import shannon_rate_bit_per_s
from cutlayer.report.drawing import GRID, INK, MUTED, new_figure
from cutlayer.rounds.costs import paper_flops, paper_traffic
from cutlayer.rounds.vit import (
    VIT_BASE,
    block_adapter_parameters,
    exact_block_parameters,
    patch_convolution_parameters,
    vit_spec,
)
from cutlayer.spec import MiniBatch
from cutlayer.units import BITS_PER_BYTE, MIB
from reproduction.catalogue import Made, Options, caption, write
from reproduction.claims import Claim, Said, Verdict

TERA = 1e12
# Section VIII-A and VIII-B.5, and Table III [MiB]
_TEXT_MHZ, _SNR_DB, _DEVICES = 5.0, 17.0, 8
_SFT_MINUTES, _UNCOMPRESSED_MINUTES, _COMPRESSION = 81.4, 906.9, 14.75
_INPUT_MIB, _OPTIMIZER_MIB, _MODEL_MIB = 36.75, 3.75, 141.19
_DEVICE_FLOPS_PER_S = 256 * 4 * 1e9
_SERVER_FLOPS_PER_S = 2048 * 1.5e9


@dataclass(frozen=True)
class Row:
    """A parameter: what the table says, what the text says, what the results imply, in words."""

    parameter: str
    table: str
    text: str
    implied: str
    claim: Claim | None = None


def rows() -> tuple[Row, ...]:
    """The table from top to bottom; rows without a claim leave nothing to check."""
    return (
        _bandwidth(),
        _device_compute(),
        _server_compute(),
        _plain(Said("devices", "8", "devices", Decimal("8")), "8", "", _DEVICES, "As in the text."),
        _size(),
        _width(),
        _batch(),
        _cut(),
        _rank(),
        Row("optimizer", "SGD, momentum 0.9", "", "a momentum a value (Table III)"),
        Row("learning rate", "1e-4, decay 0.998", "", "cannot be told"),
    )


def implied_bandwidth_mhz() -> float:
    """The bandwidth at which SFT without compression takes 906.9 / 81.4 times SFT's minutes.

    A local step takes C seconds of computing and X/W of sending, or X/(14.75 W) compressed, by
    equation (26) without a queue; the number of steps cancels.
    """
    spec, batch = vit_spec(VIT_BASE), MiniBatch(64, VIT_BASE.tokens)
    flops, traffic = paper_flops(spec, 5, batch), paper_traffic(spec, 5, batch)
    device_s = (flops.device_forward + flops.device_backward) / _DEVICE_FLOPS_PER_S
    compute_s = device_s + flops.server / _SERVER_FLOPS_PER_S
    times = _UNCOMPRESSED_MINUTES / _SFT_MINUTES
    sending_s = compute_s * (times - 1) / (1 - times / _COMPRESSION)
    both_ways_bits = BITS_PER_BYTE * (traffic.activation_bytes + traffic.gradient_bytes)
    per_mhz_bit_per_s = shannon_rate_bit_per_s(1e6, _SNR_DB) / _DEVICES
    return both_ways_bits / (sending_s * per_mhz_bit_per_s)


def _bandwidth() -> Row:
    paper, ours = Decimal("30"), implied_bandwidth_mhz()
    reason = (
        f"The text has {_TEXT_MHZ:g} MHz, and with it the minutes of SFT with and without"
        f" compression ({_UNCOMPRESSED_MINUTES} / {_SFT_MINUTES}) agree: they imply {ours:.1f} MHz."
    )
    said = Said("system bandwidth", "30 MHz", "MHz", paper)
    claim = said.number(ours, reason, implied=_TEXT_MHZ)
    return Row("system bandwidth", "B = 30 MHz", "5 MHz", f"{ours:.1f} MHz", claim)


def _device_compute() -> Row:
    literal, text = Decimal("8E+6"), _DEVICE_FLOPS_PER_S / TERA
    said = Said("device computing rate", "1 GHz x 2e9 cores x 4", "TFLOP/s", literal)
    claim = said.number(
        text,
        "Equation (20) multiplies clock, cores and operations a clock: Table II's 2e9 is a clock in"
        " the place of the cores; with the text's 256 cores at 0.5 to 1.5 GHz it is about 1.",
        implied=text,
    )
    row = "C_n^u = 2e9, D_n^u = 4"
    return Row(
        "device compute", row, "256 cores x 4, 0.5-1.5 GHz", f"{text:.2f} TFLOP/s at 1 GHz", claim
    )


def _server_compute() -> Row:
    literal, text = Decimal("9.2E+9"), 2048 * 4 * 40e9 / TERA
    fits = _SERVER_FLOPS_PER_S / TERA
    said = Said("server computing rate", "3e9 x 1.5 GHz x 2048", "TFLOP/s", literal)
    claim = said.number(
        fits,
        f"Equation (22) multiplies the three; the text's 40 GHz, 2048 cores and 4 give {text:.0f}"
        f" TFLOP/s, 1.5 GHz and 2048 give {fits:.2f}, with which the paper's minutes agree.",
        implied=text,
    )
    row = "C_s = 1.5 GHz, D_s = 2,048, f^s = 3e9"
    return Row("server compute", row, "40 GHz, 2048 cores x 4", f"{fits:.2f} TFLOP/s", claim)


def _size() -> Row:
    millions = vit_spec(VIT_BASE).parameters / 1e6
    reason = "ViT-B/16 with a head of 100 classes, counted exactly."
    said = Said("model size", "86 M", "million", Decimal("86"))
    return _plain(said, "ViT [15]", f"{millions:.1f} M", millions, reason)


def _width() -> Row:
    """144 D^2 of 86 million weights: the text's hidden dimension is the MLP's inner one."""
    paper, implied = Decimal("3072"), sqrt(86e6 / 144)
    said = Said("hidden dimension", "3072", "values", paper)
    claim = said.number(
        float(VIT_BASE.width),
        f"12 blocks of 12D^2 make 86 million at D = {implied:.0f}; 3072 = 4 x 768 is the inner"
        " width of the MLP.",
        implied=implied,
    )
    return Row("hidden dimension", "", "3072", f"{VIT_BASE.width} (MLP 3072)", claim)


def _batch() -> Row:
    samples = _INPUT_MIB * MIB / (4 * 3 * 224**2)
    reason = "Table III's 36.75 MB of input are so many float32 images of 224 px."
    said = Said("batch size", "64", "samples", Decimal("64"))
    return _plain(said, "64", f"{samples:.2f}", samples, reason)


def _cut() -> Row:
    values = _MODEL_MIB * MIB / 4 - patch_convolution_parameters(VIT_BASE)
    blocks = values / (exact_block_parameters(VIT_BASE) + 16 * VIT_BASE.width * 16)
    reason = "Table III's 141.19 MB of model and LoRA hold so many blocks beside the patches."
    said = Said("cut layer", "5-th ViT block", "blocks", Decimal("5"))
    return _plain(said, "5", f"{blocks:.3f}", blocks, reason)


def _rank() -> Row:
    rank = _OPTIMIZER_MIB * MIB / 4 / (5 * 16 * VIT_BASE.width)
    separate = _OPTIMIZER_MIB * MIB / 4 * VIT_BASE.rank / (5 * block_adapter_parameters(VIT_BASE))
    reason = (
        "Table III's 3.75 MB of optimizer are 5 x 16Dr momenta; with the text's 18Dr the rank"
        f" would be {separate:.1f}."
    )
    said = Said("LoRA rank", "16", "values", Decimal("16"))
    return _plain(said, "", f"{rank:.2f}", rank, reason)


def _plain(said: Said, text: str, implied: str, ours: float, reason: str) -> Row:
    return Row(said.name, said.says, text, implied, said.number(ours, reason))


SETTING = "the paper's parameters, three times over; computed, nothing is trained"
COLUMNS = ("parameter", "table_ii", "text", "results_imply", "verdict")
_HEADINGS = ("parameter", "Table II", "the text", "the results imply", "verdict")
_LEFT = (0.0, 0.16, 0.43, 0.65, 0.86)
_WRONG = "#b3282d"
_RIGHT = "#0e6b61"


def make(options: Options, output: Path) -> Made:
    """Judge, write; no option matters."""
    found = rows()
    claims = tuple(row.claim for row in found if row.claim is not None)
    tables = {"table2": [dict(zip(COLUMNS, _cells(row), strict=True)) for row in found]}
    return write("table2", output, SETTING, claims, tables, lambda: draw(found))


def draw(found: Sequence[Row]) -> Figure:
    """The table as a picture; call it inside `plain_style`."""
    figure = new_figure(90 + 31 * len(found))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(len(found) + 0.2, -1.4)
    _line(figure, -1, _HEADINGS, MUTED)
    for place, row in enumerate(found):
        axes.axhline(place - 0.5, color=GRID, linewidth=1)
        _line(figure, place, _cells(row), INK)
    caption(figure, SETTING)
    return figure


def _line(figure: Figure, place: float, cells: Sequence[str], colour: str) -> None:
    (axes,) = figure.axes
    for left, cell in zip(_LEFT, cells, strict=True):
        verdicts = {Verdict.EXACT.value: _RIGHT, Verdict.CONTRADICTS_ITSELF.value: _WRONG}
        axes.text(left, place, cell, va="center", fontsize=11, color=verdicts.get(cell, colour))


def _cells(row: Row) -> tuple[str, ...]:
    verdict = "" if row.claim is None else row.claim.verdict.value
    return row.parameter, row.table, row.text, row.implied, verdict
