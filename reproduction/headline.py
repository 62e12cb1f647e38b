"""The paper's headline numbers beside ours, all from one fitted constant.

    python -m reproduction headline     3 s; expected/headline.csv, expected/headline-claims.csv

Analytic: every number of the abstract, the introduction and Section VIII that needs no training:
minutes by the timeline at full size, volumes, memory, compression; and how each interpretation of
the setting fits the minutes.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.report.drawing import (
    INK,
    OURS,
    Series,
    draw_bars,
    legend_and_title,
    new_figure,
)
from cutlayer.report.wording import OTHER_COLOUR
from cutlayer.rounds.memory import PAPER_ACCOUNTING
from cutlayer.rounds.vit import vit_spec
from cutlayer.spec import Trained
from cutlayer.units import GIB, MIB
from reproduction import fig8, fig10, fig11, fig12, fig13
from reproduction.catalogue import Cells, Made, Options, write
from reproduction.claims import Claim, Said
from reproduction.evaluation import (
    CLAIMED,
    CODED_RATIO,
    EVALUATION,
    FL_MINUTES,
    INTERPRETATIONS,
    LARGE_MODEL,
    NAMES,
    PAPER_WIDTH,
    PUBLISHED_MINUTES,
    SFT_MINUTES,
    SPARSIFIED_RATIO,
    TINY_IMAGENET,
    TWENTY_DEVICES,
    Evaluation,
    Fit,
    coded,
    evaluate,
    fit,
    fitted_words,
    indexed_ratio,
    nearest_to,
    words_of,
)
from reproduction.fig10 import Delays, delays_by_links
from reproduction.table3 import calibrated_memory

_LOG = logging.getLogger(f"cutlayer.{__name__}")

ABSTRACT_DELAY_PERCENT = Decimal("66.4")
ABSTRACT_VOLUME_PERCENT = Decimal("93.6")
MEMORY_PERCENT = Decimal("58.2")
EPOCH_GIGABYTES = Decimal("2.81")
# "5,000 data samples and 196 tokens": a device's part of the introduction's example
_EXAMPLE_SAMPLES = 5_000


def claims_of(
    cifar: Evaluation,
    tiny: Evaluation,
    large: Evaluation,
    twenty: Evaluation,
    allocated: Sequence[Delays],
) -> tuple[Claim, ...]:
    """Delays, volumes, the abstract, memory, the codec, robustness, the planner.

    `allocated`: rounds by allocation of the paper's bandwidth, a value for each interpretation.
    """
    return (
        *fig11.claims_of(cifar, tiny),
        *fig8.claims_of(cifar),
        _abstract_delay(cifar),
        _abstract_volume(),
        _memory(cifar),
        _sparsified(),
        _coded(),
        _epoch_volume(cifar),
        *fig12.claims_of(cifar, large),
        *fig13.claims_of(cifar, twenty),
        fig10.reduction(allocated),
    )


def _reduction(before: Decimal) -> float:
    """By how much SFT's published minutes are below `before` [%]."""
    return 100 * (1 - float(SFT_MINUTES / before))


def _abstract_delay(cifar: Evaluation) -> Claim:
    ours = 100 * (1 - 1 / cifar.times_sft("sl"))
    body = {name: _reduction(published) for name, published in PUBLISHED_MINUTES.items()}
    said = Said(
        "delay reduced, abstract", f"up to {ABSTRACT_DELAY_PERCENT} %", "%", ABSTRACT_DELAY_PERCENT
    )
    return said.reduction(
        ours,
        f"The text's own minutes make it {_reduction(FL_MINUTES):.1f} % against FL, "
        f"{body['sft-uncompressed']:.1f} % against SFT w/o compression, "
        f"{body['splitlora-paper']:.1f} % against SplitLoRA, {body['sl']:.1f} % against SL.",
        implied=fig11.largest_reduction(),
    )


def _abstract_volume() -> Claim:
    ratio, volumes = fig8.UNCOMPRESSED_TIMES_SFT, fig8.SL_TIMES_SFT
    body, against_sl = (100 * (1 - 1 / float(times)) for times in (ratio, volumes))
    ours = 100 - nearest_to(float(fig8.SENT_PERCENT))[1].percent
    said = Said(
        "communication reduced, abstract",
        f"up to {ABSTRACT_VOLUME_PERCENT} %",
        "%",
        ABSTRACT_VOLUME_PERCENT,
    )
    return said.reduction(
        ours,
        f"The text's {ratio} times make it {body:.1f} % against SFT w/o compression and its "
        f"{volumes} times {against_sl:.1f} % against SL; {ABSTRACT_VOLUME_PERCENT} % would be "
        f"{100 / float(100 - ABSTRACT_VOLUME_PERCENT):.1f} times.",
        implied=body,
    )


def _memory(cifar: Evaluation) -> Claim:
    dimensions, samples = cifar.setting.dimensions, cifar.setting.batch_samples
    split = calibrated_memory(dimensions, cifar.setting.cut, samples)
    whole = calibrated_memory(dimensions, dimensions.blocks, samples, trained=Trained.WEIGHTS)
    ours = 100 * (1 - split.total / whole.total)
    said = Said("device memory reduced against FL", f"{MEMORY_PERCENT} %", "%", MEMORY_PERCENT)
    return said.reduction(
        ours,
        f"By the accounting that Table III follows: {split.total / MIB:.0f} of "
        f"{whole.total / MIB:.0f} MiB; its FL columns' activations are not reproduced exactly, see "
        "table3.",
    )


def _sparsified() -> Claim:
    ours = indexed_ratio(PAPER_WIDTH, CLAIMED, sign=False)
    said = Said(f"compression at {CLAIMED}", f"{SPARSIFIED_RATIO}x", "times", SPARSIFIED_RATIO)
    return said.number(
        ours,
        "Index and level bits of the kept values; with the sign, which they leave out, it is "
        f"{indexed_ratio(PAPER_WIDTH, CLAIMED, sign=True):.2f}.",
    )


def _coded() -> Claim:
    ours = coded(CLAIMED).ratio
    said = Said(
        f"compression at {CLAIMED} with lossless coding", f"{CODED_RATIO}x", "times", CODED_RATIO
    )
    return said.number(
        ours,
        "Expected bytes of the paper's codec: Golomb gaps, level and sign bits; fig7 measures it "
        "on real activations.",
    )


def _epoch_volume(cifar: Evaluation) -> Claim:
    setting = cifar.setting
    batches = _EXAMPLE_SAMPLES // setting.batch_samples
    traffic = PAPER_ACCOUNTING.traffic(vit_spec(setting.dimensions), setting.cut, setting.batch)
    ours = batches * traffic.activation_bytes / GIB
    said = Said(
        "activations of an epoch, introduction", f"{EPOCH_GIGABYTES} GB", "GiB", EPOCH_GIGABYTES
    )
    return said.number(
        ours,
        f"{batches} full mini-batches of {setting.batch_samples} x {setting.batch.tokens} x "
        f"{setting.dimensions.width} float32 values, one way, in units of 2^30 bytes.",
    )


_MARKS = {"sft": "o", "sft-uncompressed": "s", "splitlora-paper": "^", "sl": "D"}
_COLOURS = {
    "sft": "#1f5a93",
    "sft-uncompressed": "#35ab9b",
    "splitlora-paper": "#b3560f",
    "sl": "#7657a6",
}


def draw(cifar: Evaluation, fits: Mapping[str, Fit], setting: str) -> Figure:
    """Two panels under a line that says what was computed; call it inside `plain_style`."""
    figure = new_figure(430)
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.0))
    draw_bars(
        left,
        list(NAMES.values()),
        [
            Series("paper", [fig11.PUBLISHED[name] for name in NAMES], OTHER_COLOUR),
            Series(
                f"ours, {cifar.local_steps:.1f} local steps",
                [cifar.minutes[name] for name in NAMES],
                OURS,
            ),
        ],
        "virtual time [min]",
    )
    left.set_title("minutes to the highest accuracy")
    _interpretations(right, fits)
    legend_and_title(figure, (left, right), setting)
    return figure


def _interpretations(axes: Axes, fits: Mapping[str, Fit]) -> None:
    """Each scheme's deviation under each interpretation, each with its own best number of steps."""
    for place, (name, mark) in enumerate(_MARKS.items()):
        # one above the other, since they may coincide
        offset = 0.16 * (place - (len(_MARKS) - 1) / 2)
        axes.plot(
            [100 * found.deviations[name] for found in fits.values()],
            [row + offset for row in range(len(fits))],
            mark,
            color=_COLOURS[name],
            markersize=6,
            label=NAMES[name],
        )
    axes.axvspan(-5, 5, color="#dfe3e8", zorder=0.3, label="within 5 %")
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(
        range(len(fits)),
        [f"{name}\n{found.local_steps:.0f} steps" for name, found in fits.items()],
    )
    axes.invert_yaxis()
    axes.grid(True, axis="x")
    axes.set_title("what each interpretation of the setting makes of them")
    axes.set_xlabel("deviation from the paper's minutes [%]")


def make(options: Options, output: Path) -> Made:
    """Fit each interpretation, judge, write; no option matters."""
    fits = {name: fit(setting) for name, setting in INTERPRETATIONS.items()}
    fitted = next(iter(fits.values()))
    cifar, tiny, large, twenty = (
        evaluate(setting, fitted)
        for setting in (EVALUATION, TINY_IMAGENET, LARGE_MODEL, TWENTY_DEVICES)
    )
    for name, found in fits.items():
        _LOG.info(
            f"{name}: {found.local_steps:.1f} local steps a device ({found.rounds:.2f} epochs), "
            f"minutes of the four split schemes within {100 * found.worst:.1f} %"
        )
    claims = claims_of(cifar, tiny, large, twenty, delays_by_links(EVALUATION.bandwidth_hz))
    setting, tables = words_of(EVALUATION), {"headline": _rows(fits)}
    said = f"{setting}; fitted: {fitted_words(cifar)}"
    return write("headline", output, said, claims, tables, lambda: draw(cifar, fits, setting))


def _rows(fits: Mapping[str, Fit]) -> Iterator[Cells]:
    """Each interpretation and scheme."""
    for interpretation, found in fits.items():
        for scheme, published in PUBLISHED_MINUTES.items():
            yield {
                "interpretation": interpretation,
                "local_steps": f"{found.local_steps:.6f}",
                "epochs": f"{found.rounds:.6f}",
                "scheme": scheme,
                "minutes": f"{found.minutes[scheme]:.6f}",
                "paper_minutes": published,
                "deviation_percent": f"{100 * found.deviations[scheme]:.6f}",
            }
