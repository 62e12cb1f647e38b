"""Fig. 8 of the paper: what the schemes send, and what each stage of the compression saves.

    python -m reproduction fig8         3 s; expected/fig8.csv, expected/fig8-claims.csv

Analytic: bytes of the paper's formulas at full size for as many steps as its minutes imply, and the
expected bytes of our codecs. The volumes belong to other numbers of epochs than the minutes of Fig.
11 do; each claim says so.
"""

import logging
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.report.bars import OURS, PAPER_COLOUR, Series, draw_bars, legend_and_title
from cutlayer.report.drawing import INK, new_figure
from cutlayer.rounds.schemes import SCHEMES
from cutlayer.units import GIB
from reproduction.catalogue import Made, Options
from reproduction.claims import Claim, judge_number
from reproduction.evaluation import (
    EVALUATION,
    NAMES,
    PRINTED_MINUTES,
    Evaluation,
    evaluate,
    fitted_words,
    minutes,
    step_gigabytes,
    words_of,
)
from reproduction.output import write
from reproduction.points import CLAIMED, Method, coded, methods, nearest_to

_LOG = logging.getLogger(f"cutlayer.{__name__}")

SL_GIGABYTES = Decimal("144.76")
SL_TIMES_SFT = Decimal("6.7")
UNCOMPRESSED_TIMES_SFT = Decimal("14.75")
SENT_PERCENT = Decimal("6.8")
# what the three numbers make of the other two schemes [10^9 byte]
SFT_GIGABYTES = float(SL_GIGABYTES / SL_TIMES_SFT)
UNCOMPRESSED_GIGABYTES = SFT_GIGABYTES * float(UNCOMPRESSED_TIMES_SFT)


def claims_of(cifar: Evaluation) -> tuple[Claim, ...]:
    """The volume of SL, SFT's part of it, and twice what compression leaves."""
    return (_sl_volume(cifar), _sl_times(cifar), _uncompressed_times(), _sent())


def steps_of(printed_gigabytes: float) -> float:
    """Local steps a device in which uncompressed activations and gradients are so many bytes."""
    return printed_gigabytes / step_gigabytes()


def _sl_volume(cifar: Evaluation) -> Claim:
    ours = sum(cifar.gigabytes("sl").values())
    gib = ours * 1e9 / GIB
    steps = [steps_of(float(SL_GIGABYTES) * unit) for unit in (1.0, GIB / 1e9)]
    low, high = (minutes(cifar.setting, SCHEMES["sl"], count) for count in steps)
    return Claim(
        "volume of SL",
        f"{SL_GIGABYTES} GB",
        SL_GIGABYTES,
        ours,
        "GB",
        judge_number(SL_GIGABYTES, ours, implied=ours),
        f"The {PRINTED_MINUTES['sl']} min of SL are {cifar.local_steps:.0f} steps a device, which "
        f"send {ours:.1f} GB ({gib:.1f} GiB); {SL_GIGABYTES} GB would be sent in {low:.0f} min, as "
        f"many GiB in {high:.0f}.",
    )


def _sl_times(cifar: Evaluation) -> Claim:
    ours = sum(cifar.gigabytes("sl").values()) / sum(cifar.gigabytes("sft").values())
    steps = steps_of(UNCOMPRESSED_GIGABYTES)
    taken = minutes(cifar.setting, SCHEMES["sft-uncompressed"], steps)
    ratio = UNCOMPRESSED_GIGABYTES / float(SL_GIGABYTES)
    return Claim(
        "volume of SL over that of SFT",
        f"{SL_TIMES_SFT} times",
        SL_TIMES_SFT,
        ours,
        "times",
        judge_number(SL_TIMES_SFT, ours, implied=ours),
        f"An epoch of SL sends what one of {NAMES['sft-uncompressed']} does, so SFT would have to "
        f"train {ratio:.1f} times as many epochs as SL, where their minutes need as many; "
        f"{NAMES['sft-uncompressed']} would send {UNCOMPRESSED_GIGABYTES:.1f} GB, in {taken:.0f} "
        f"min instead of {PRINTED_MINUTES['sft-uncompressed']}.",
    )


def _uncompressed_times() -> Claim:
    point, method = nearest_to(float(SENT_PERCENT))
    return Claim(
        f"volume of {NAMES['sft-uncompressed']} over that of SFT",
        f"{UNCOMPRESSED_TIMES_SFT} times",
        UNCOMPRESSED_TIMES_SFT,
        method.ratio,
        "times",
        judge_number(UNCOMPRESSED_TIMES_SFT, method.ratio),
        f"Which point of the codec it is the text does not say: with {point.sparsity:g} % dropped "
        f"{point.bits} bits come nearest; the 20x of Fig. 7 is another point ({CLAIMED}: "
        f"{coded(CLAIMED).ratio:.1f}). Our minutes take {UNCOMPRESSED_TIMES_SFT} as given.",
    )


def _sent() -> Claim:
    point, method = nearest_to(float(SENT_PERCENT))
    return Claim(
        "part of the activations that is sent",
        f"{SENT_PERCENT} %",
        SENT_PERCENT,
        method.percent,
        "%",
        judge_number(SENT_PERCENT, method.percent, implied=100 / float(UNCOMPRESSED_TIMES_SFT)),
        f"It is 1 / {UNCOMPRESSED_TIMES_SFT}; the paper's codec comes to {method.percent:.2f} % at "
        f"{point} and to {coded(CLAIMED).percent:.2f} % at {CLAIMED}, by expected bytes.",
    )


PRINTED: dict[str, float] = {
    "sft": SFT_GIGABYTES,
    "sft-uncompressed": UNCOMPRESSED_GIGABYTES,
    "sl": float(SL_GIGABYTES),
}


def draw(cifar: Evaluation, methods: Sequence[Method], round_gb: float, setting: str) -> Figure:
    """Two panels under a line that says what was computed; call it inside `plain_style`."""
    figure = new_figure(440)
    left, right = figure.subplots(1, 2)
    draw_bars(
        left,
        list(NAMES.values()),
        [
            Series("paper (SL as published, others by its ratios)", _printed(), PAPER_COLOUR),
            Series(
                f"ours, {cifar.rounds:.2f} epochs (FL {cifar.fl_rounds:.1f})",
                [sum(cifar.gigabytes(name).values()) for name in NAMES],
                OURS,
            ),
        ],
        "sent and received by all devices [GB]",
    )
    left.set_title("(a) a whole training")
    _by_method(right, methods, round_gb)
    legend_and_title(figure, (left, right), setting)
    return figure


def _printed() -> list[float | None]:
    return [PRINTED.get(name) for name in NAMES]


def _by_method(axes: Axes, methods: Sequence[Method], round_gb: float) -> None:
    names = [f"{method.name}, {method.percent:.3g} %" for method in methods]
    values = [round_gb * method.percent / 100 for method in methods]
    draw_bars(
        axes, names, [Series("", values, OURS, digits=2)], "sent in a round of one epoch [GB]"
    )
    axes.axvline(
        round_gb * float(SENT_PERCENT) / 100,
        color=INK,
        linewidth=1.2,
        linestyle=":",
        label=f"paper: {SENT_PERCENT} % of the activations",
    )
    axes.set_title(f"(b) a round, {CLAIMED.sparsity:g} % dropped, {CLAIMED.bits} bits")


COLUMNS = ("panel", "name", "payload", "gigabytes", "percent", "paper_gigabytes")


def make(options: Options, output: Path) -> Made:
    """Compute, judge, and write fig8.csv, fig8-claims.csv, .png and .svg.

    No option matters. Raises RunError for an output that cannot be written.
    """
    cifar = evaluate(EVALUATION)
    _LOG.info(f"volumes of {fitted_words(cifar)}, FL's of {cifar.fl_rounds:.1f} epochs")
    ways, round_gb = methods(), EVALUATION.epoch_steps * step_gigabytes()
    setting, tables = words_of(EVALUATION), {"fig8": (COLUMNS, _rows(cifar, ways, round_gb))}

    def picture() -> Figure:
        return draw(cifar, ways, round_gb, setting)

    return write("fig8", output, setting, claims_of(cifar), tables, picture)


def _rows(cifar: Evaluation, ways: Sequence[Method], round_gb: float) -> Iterator[tuple[str, ...]]:
    """Lines of `COLUMNS`: panel a by scheme and payload, panel b by way of compressing."""
    for name in NAMES:
        printed = f"{PRINTED[name]:.6f}" if name in PRINTED else ""
        sent = cifar.gigabytes(name)
        for phase, volume in sent.items():
            yield ("a", name, phase.value, f"{volume:.6f}", "", "")
        yield ("a", name, "all", f"{sum(sent.values()):.6f}", "", printed)
    for way in ways:
        volume = round_gb * way.percent / 100
        yield ("b", way.name, "activation and gradient", f"{volume:.6f}", f"{way.percent:.6f}", "")
