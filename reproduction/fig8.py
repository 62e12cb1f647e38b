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

from cutlayer.report.drawing import (
    INK,
    OURS,
    Series,
    draw_bars,
    legend_and_title,
    new_figure,
)
from cutlayer.report.wording import OTHER_COLOUR
from cutlayer.rounds.schemes import SCHEMES
from cutlayer.units import GIB
from reproduction.catalogue import Cells, Made, Options, write
from reproduction.claims import Claim, Said
from reproduction.evaluation import (
    CLAIMED,
    EVALUATION,
    NAMES,
    PUBLISHED_MINUTES,
    Evaluation,
    Method,
    coded,
    evaluate,
    fitted_words,
    methods,
    minutes,
    nearest_to,
    step_gigabytes,
    words_of,
)

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


def steps_of(published_gigabytes: float) -> float:
    """Local steps a device in which uncompressed activations and gradients are so many bytes."""
    return published_gigabytes / step_gigabytes()


def _sl_volume(cifar: Evaluation) -> Claim:
    ours = sum(cifar.gigabytes("sl").values())
    gib = ours * 1e9 / GIB
    steps = [steps_of(float(SL_GIGABYTES) * unit) for unit in (1.0, GIB / 1e9)]
    low, high = (minutes(cifar.setting, SCHEMES["sl"], count) for count in steps)
    said = Said("volume of SL", f"{SL_GIGABYTES} GB", "GB", SL_GIGABYTES)
    return said.number(
        ours,
        f"The {PUBLISHED_MINUTES['sl']} min of SL are {cifar.local_steps:.0f} steps a device, "
        f"which send {ours:.1f} GB ({gib:.1f} GiB); {SL_GIGABYTES} GB would be sent "
        f"in {low:.0f} min, as many GiB in {high:.0f}.",
        implied=ours,
    )


def _sl_times(cifar: Evaluation) -> Claim:
    ours = sum(cifar.gigabytes("sl").values()) / sum(cifar.gigabytes("sft").values())
    steps = steps_of(UNCOMPRESSED_GIGABYTES)
    taken = minutes(cifar.setting, SCHEMES["sft-uncompressed"], steps)
    ratio = UNCOMPRESSED_GIGABYTES / float(SL_GIGABYTES)
    said = Said("volume of SL over that of SFT", f"{SL_TIMES_SFT} times", "times", SL_TIMES_SFT)
    return said.number(
        ours,
        f"An epoch of SL sends what one of {NAMES['sft-uncompressed']} does, so SFT would have to "
        f"train {ratio:.1f} times as many epochs as SL, where their minutes need as many; "
        f"{NAMES['sft-uncompressed']} would send {UNCOMPRESSED_GIGABYTES:.1f} GB, in {taken:.0f} "
        f"min instead of {PUBLISHED_MINUTES['sft-uncompressed']}.",
        implied=ours,
    )


def _uncompressed_times() -> Claim:
    point, method = nearest_to(float(SENT_PERCENT))
    said = Said(
        f"volume of {NAMES['sft-uncompressed']} over that of SFT",
        f"{UNCOMPRESSED_TIMES_SFT} times",
        "times",
        UNCOMPRESSED_TIMES_SFT,
    )
    return said.number(
        method.ratio,
        f"Which point of the codec it is the text does not say: with {point.sparsity:g} % dropped "
        f"{point.bits} bits come nearest; the 20x of Fig. 7 is another point ({CLAIMED}: "
        f"{coded(CLAIMED).ratio:.1f}). Our minutes take {UNCOMPRESSED_TIMES_SFT} as given.",
    )


def _sent() -> Claim:
    point, method = nearest_to(float(SENT_PERCENT))
    said = Said("part of the activations that is sent", f"{SENT_PERCENT} %", "%", SENT_PERCENT)
    return said.number(
        method.percent,
        f"It is 1 / {UNCOMPRESSED_TIMES_SFT}; the paper's codec comes to {method.percent:.2f} % at "
        f"{point} and to {coded(CLAIMED).percent:.2f} % at {CLAIMED}, by expected bytes.",
        implied=100 / float(UNCOMPRESSED_TIMES_SFT),
    )


PUBLISHED: dict[str, float] = {
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
            Series("paper (SL as published, others by its ratios)", _published(), OTHER_COLOUR),
            Series(
                f"ours, {cifar.rounds:.2f} epochs (FL {cifar.fl_rounds:.1f})",
                [sum(cifar.gigabytes(name).values()) for name in NAMES],
                OURS,
            ),
        ],
        "sent and received by all devices [GB]",
    )
    left.set_title("(a) a whole run")
    _by_method(right, methods, round_gb)
    legend_and_title(figure, (left, right), setting)
    return figure


def _published() -> list[float | None]:
    return [PUBLISHED.get(name) for name in NAMES]


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


def make(options: Options, output: Path) -> Made:
    """Compute, judge, write; no option matters."""
    cifar = evaluate(EVALUATION)
    _LOG.info(f"volumes of {fitted_words(cifar)}, FL's of {cifar.fl_rounds:.1f} epochs")
    ways, round_gb = methods(), EVALUATION.epoch_steps * step_gigabytes()
    setting, tables = words_of(EVALUATION), {"fig8": _rows(cifar, ways, round_gb)}

    def picture() -> Figure:
        return draw(cifar, ways, round_gb, setting)

    return write("fig8", output, setting, claims_of(cifar), tables, picture)


def _rows(cifar: Evaluation, ways: Sequence[Method], round_gb: float) -> Iterator[Cells]:
    """Panel a by scheme and payload, panel b by way of compressing."""

    def row(panel: str, name: str, payload: str, volume_gb: float, percent: str = "") -> Cells:
        named = {"panel": panel, "name": name, "payload": payload}
        return {**named, "gigabytes": f"{volume_gb:.6f}", "percent": percent}

    for name in NAMES:
        published = f"{PUBLISHED[name]:.6f}" if name in PUBLISHED else ""
        sent = cifar.gigabytes(name)
        for phase, volume in sent.items():
            yield row("a", name, phase.value, volume)
        yield {**row("a", name, "all", sum(sent.values())), "paper_gigabytes": published}
    for way in ways:
        volume, percent = round_gb * way.percent / 100, f"{way.percent:.6f}"
        yield row("b", way.name, "activation and gradient", volume, percent)
