"""Fig. 11 of the paper: how long each scheme takes to its highest accuracy, on two data sets.

    python -m reproduction fig11        3 s; expected/fig11.csv, expected/fig11-claims.csv

Analytic: seconds by the timeline and the paper's cost formulas at full size. One number of local
steps is fitted to the minutes of the four split schemes; all else follows from it.
"""

import logging
from decimal import Decimal
from pathlib import Path

from matplotlib.figure import Figure

from cutlayer.report.drawing import (
    MUTED,
    OURS,
    Series,
    draw_bars,
    legend_and_title,
    new_figure,
)
from cutlayer.report.wording import OTHER_COLOUR
from reproduction.catalogue import Cells, Made, Options, write
from reproduction.claims import Claim, Said, judge_larger
from reproduction.evaluation import (
    EVALUATION,
    FL_MINUTES,
    NAMES,
    PUBLISHED_MINUTES,
    SFT_MINUTES,
    TINY_IMAGENET,
    Evaluation,
    evaluate,
    fit,
    fitted_words,
    words_of,
)

_LOG = logging.getLogger(f"cutlayer.{__name__}")

TIMES_SFT = {
    "sft-uncompressed": ("11.14x", Decimal("11.14")),
    "splitlora-paper": ("11.96x", Decimal("11.96")),
    "sl": ("13 times", Decimal("13")),
}
FL_TIMES_SFT = Decimal("5.15")


def claims_of(cifar: Evaluation, tiny: Evaluation) -> tuple[Claim, ...]:
    """Minutes of five schemes, four ratios, and that SFT is the fastest on both data sets."""
    return (
        *(_minutes(cifar, name) for name in PUBLISHED_MINUTES),
        _fl_minutes(cifar),
        *(_times(cifar, name) for name in TIMES_SFT),
        _fl_times(cifar),
        _fastest(cifar, "CIFAR-100"),
        _fastest(tiny, "Tiny-ImageNet"),
    )


def _minutes(cifar: Evaluation, name: str) -> Claim:
    published, ours = PUBLISHED_MINUTES[name], cifar.minutes[name]
    given = " (given as 11.96 times SFT)" if name == "splitlora-paper" else ""
    said = Said(f"delay of {NAMES[name]}", f"{published} min{given}", "min", published)
    return said.number(
        ours, f"At {fitted_words(cifar)}, the one constant fitted to the four split schemes."
    )


def _fl_minutes(cifar: Evaluation) -> Claim:
    ours = cifar.minutes["fl-lora"]
    said = Said("delay of FL", f"{FL_MINUTES} min", "min", FL_MINUTES)
    return said.number(
        ours,
        "FL with LoRA and SFT without compression are the same training, so they need the same "
        f"{cifar.rounds:.2f} epochs, and by the paper's own cost formulas these take FL "
        f"{ours:.1f} min; {FL_MINUTES} min are {cifar.fl_rounds:.1f} epochs, "
        f"{cifar.fl_rounds / cifar.rounds:.1f} times as many.",
        implied=ours,
    )


def _times(cifar: Evaluation, name: str) -> Claim:
    says, published = TIMES_SFT[name]
    ours = cifar.times_sft(name)
    said = Said(f"delay of {NAMES[name]} over that of SFT", says, "times", published)
    return said.number(ours, "From the minutes above, after the same number of local steps.")


def _fl_times(cifar: Evaluation) -> Claim:
    ours = cifar.times_sft("fl-lora")
    said = Said("delay of FL over that of SFT", f"{FL_TIMES_SFT}x", "times", FL_TIMES_SFT)
    return said.number(
        ours,
        "After the same number of epochs FL, which sends no activations, is the faster one; with "
        f"{cifar.fl_rounds:.1f} epochs for FL alone the ratio is {cifar.fl_own_times_sft:.2f}.",
        implied=ours,
    )


def _fastest(seen: Evaluation, data: str) -> Claim:
    others = {name: minutes for name, minutes in seen.minutes.items() if name != "sft"}
    second = min(others, key=others.__getitem__)
    split = min(value for name, value in others.items() if name != "fl-lora")
    number = "" if data == "CIFAR-100" else "; the text gives no number for this data set"
    said = Said(
        f"SFT against the fastest other scheme, {data}", "SFT is the fastest", "times SFT's delay"
    )
    return said.judged(
        others[second] / seen.minutes["sft"],
        judge_larger(others[second], seen.minutes["sft"], noise=0.0),
        f"After equal epochs SFT takes {seen.minutes['sft']:.1f} min, {NAMES[second]} "
        f"{others[second]:.1f} min; of the split schemes SFT is the fastest (the next takes "
        f"{split:.0f} min){number}.",
    )


def largest_reduction() -> float:
    """The largest of the text's own reductions of delay [%]: against SL."""
    return 100 * (1 - float(SFT_MINUTES) / float(PUBLISHED_MINUTES["sl"]))


# the text's minutes, on CIFAR-100 alone
PUBLISHED: dict[str, float] = {
    name: float(FL_MINUTES if name == "fl-lora" else PUBLISHED_MINUTES[name]) for name in NAMES
}


def draw(cifar: Evaluation, tiny: Evaluation, setting: str) -> Figure:
    """Two panels under a line that says what was computed; call it inside `plain_style`."""
    figure = new_figure(430)
    left, right = figure.subplots(1, 2)
    names = list(NAMES)
    ours = f"ours, after {cifar.rounds:.2f} epochs of each scheme"
    draw_bars(
        left,
        list(NAMES.values()),
        [
            Series("paper", [PUBLISHED[name] for name in names], OTHER_COLOUR),
            Series(ours, [cifar.minutes[name] for name in names], OURS),
        ],
        "virtual time [min]",
    )
    left.set_title("CIFAR-100, 50,000 samples")
    draw_bars(
        right,
        list(NAMES.values()),
        [Series(ours, [tiny.minutes[name] for name in names], OURS)],
        "virtual time [min]",
    )
    right.set_title("Tiny-ImageNet, 100,000 samples (no number in the text)")
    left.annotate(
        f"(that is {cifar.fl_rounds:.1f} epochs of FL)",
        (float(FL_MINUTES), names.index("fl-lora") - 0.19),
        xytext=(40, 0),
        textcoords="offset points",
        va="center",
        fontsize=10,
        color=MUTED,
    )
    legend_and_title(figure, (left, right), setting)
    return figure


def make(options: Options, output: Path) -> Made:
    """Compute, judge, write; no option matters."""
    fitted = fit()
    cifar, tiny = (evaluate(setting, fitted) for setting in (EVALUATION, TINY_IMAGENET))
    _LOG.info(
        f"{fitted_words(cifar)} fit the minutes of the four split schemes within "
        f"{100 * fitted.worst:.1f} %"
    )
    rows = [*_rows("CIFAR-100", cifar), *_rows("Tiny-ImageNet", tiny)]
    setting = words_of(EVALUATION, TINY_IMAGENET)

    def picture() -> Figure:
        return draw(cifar, tiny, setting)

    claims = claims_of(cifar, tiny)
    return write("fig11", output, setting, claims, {"fig11": rows}, picture)


def _rows(data: str, seen: Evaluation) -> list[Cells]:
    return [
        {
            "data": data,
            "scheme": name,
            "rounds": f"{seen.rounds:.6f}",
            "local_steps": f"{seen.local_steps:.6f}",
            "minutes": f"{seen.minutes[name]:.6f}",
            "paper_minutes": PUBLISHED[name] if data == "CIFAR-100" else "",
        }
        for name in NAMES
    ]
