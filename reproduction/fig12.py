"""Fig. 12 of the paper: the schemes' delays with ViT-L beside ViT-B.

    python -m reproduction fig12        3 s; expected/fig12.csv, expected/fig12-claims.csv

Analytic, after as many epochs as the main setting's minutes imply: SFT leads the other split
schemes by 4.96 times, where the paper says at least 2.5. Also what Fig. 13 shares: a second setting
beside the main one, each scheme's minutes in both, and how many times SFT's.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from math import inf
from pathlib import Path

from matplotlib.figure import Figure

from cutlayer.report.drawing import (
    OURS,
    Series,
    draw_bars,
    legend_and_title,
    new_figure,
)
from reproduction.catalogue import Cells, Made, Options, write
from reproduction.claims import Claim, Said, Verdict, judge_at_most, judge_larger
from reproduction.evaluation import (
    EVALUATION,
    LARGE_MODEL,
    NAMES,
    SPLIT_BASELINES,
    Evaluation,
    Setting,
    evaluate,
    fit,
    words_of,
)

_LOG = logging.getLogger(f"cutlayer.{__name__}")

LEAST_TIMES = Decimal("2.5")
_OURS_LIGHT = "#8cbde4"


@dataclass(frozen=True)
class Pair:
    """The main setting and another; `fl_times_sft`: FL over SFT as the paper prints it, if so."""

    labels: tuple[str, str]
    first: Evaluation
    second: Evaluation
    fl_times_sft: tuple[float | None, float | None] = (None, None)


def make(options: Options, output: Path) -> Made:
    """Compute, judge, write; no option matters."""
    pair = Pair(("ViT-B", "ViT-L"), *both(LARGE_MODEL))
    return write_pair("fig12", output, pair, claims_of)


def both(second: Setting) -> tuple[Evaluation, Evaluation]:
    """The main setting and `second`, after the epochs that the main one's minutes imply."""
    fitted = fit()
    return evaluate(EVALUATION, fitted), evaluate(second, fitted)


def write_pair(
    name: str,
    output: Path,
    pair: Pair,
    claims_of: Callable[[Evaluation, Evaluation], tuple[Claim, ...]],
) -> Made:
    """The table, the claims and the picture of a pair."""
    first, second = pair.labels
    _LOG.info(f"{second} after the {pair.second.rounds:.2f} epochs of {first}")
    settings = zip(pair.labels, (pair.first, pair.second), pair.fl_times_sft, strict=True)
    tables = {name: [row for each in settings for row in _rows(*each)]}
    setting = words_of(pair.first.setting, pair.second.setting)
    claims = claims_of(pair.first, pair.second)
    return write(name, output, setting, claims, tables, lambda: draw(pair, setting))


def claims_of(base: Evaluation, large: Evaluation) -> tuple[Claim, ...]:
    """SFT's lead, against which FL's lag is said to shrink."""
    return (_lead(large), _fl_gap(base, large))


def _lead(large: Evaluation) -> Claim:
    """Bound and ratio are judged as parts of the baseline's delay: at least 2.5x is at most 0.4."""
    times = {name: large.times_sft(name) for name in SPLIT_BASELINES}
    nearest = min(times, key=times.__getitem__)
    ours = times[nearest]
    said = Said(
        "delay of the fastest other split scheme over that of SFT, ViT-L",
        f"at least {LEAST_TIMES}x",
        "times",
        LEAST_TIMES,
    )
    return said.judged(
        ours,
        judge_at_most(1 / LEAST_TIMES, 1 / ours, reach=inf),
        f"That is {NAMES[nearest]}, after as many epochs as with ViT-B; for FL it holds with the "
        f"{large.fl_rounds:.1f} epochs that its minutes with ViT-B need "
        f"({large.fl_own_times_sft:.2f} times), not after the same {large.rounds:.2f} as the "
        f"others ({large.times_sft('fl-lora'):.2f}).",
    )


def _fl_gap(base: Evaluation, large: Evaluation) -> Claim:
    before, after = base.fl_own_times_sft, large.fl_own_times_sft
    verdict = judge_larger(before, after, noise=0.0)
    turned = "narrows" if verdict is Verdict.ORDERING else "widens"
    said = Said("delay of FL over that of SFT, ViT-L against ViT-B", "the gap narrows", "times")
    return said.judged(
        after,
        verdict,
        f"From {before:.2f} with ViT-B it {turned} to {after:.2f} with ViT-L: FL computes the whole"
        f" model on the device, whose time grows {_growth(base, large):.1f} times, activations only"
        f" {large.setting.dimensions.width / base.setting.dimensions.width:.2f} times.",
    )


def _growth(base: Evaluation, large: Evaluation) -> float:
    """How many times FL's delay grows."""
    return large.fl_own_minutes / base.fl_own_minutes


def _rows(label: str, seen: Evaluation, published: float | None) -> Iterator[Cells]:
    """Each scheme; `published` is how many times SFT's delay the paper gives for FL."""

    def row(name: str, epochs: float, minutes: float, times: float, paper: str = "") -> Cells:
        numbers = {"epochs": epochs, "minutes": minutes, "times_sft": times}
        shown = {heading: f"{number:.6f}" for heading, number in numbers.items()}
        return {"setting": label, "scheme": name, **shown, "paper_times_sft": paper}

    for name in NAMES:
        yield row(name, seen.rounds, seen.minutes[name], seen.times_sft(name))
    paper = "" if published is None else f"{published:.6f}"
    yield row("fl-lora", seen.fl_rounds, seen.fl_own_minutes, seen.fl_own_times_sft, paper)


def draw(pair: Pair, setting: str) -> Figure:
    """Minutes left, times SFT's right; call it inside `plain_style`."""
    first, second, labels = pair.first, pair.second, pair.labels
    figure = new_figure(470)
    left, right = figure.subplots(1, 2)
    rows = _names(first)
    colours = (_OURS_LIGHT, OURS)
    draw_bars(
        left,
        rows,
        [
            Series(f"ours, {label}", _minutes(seen), colour, digits=0)
            for label, seen, colour in zip(labels, (first, second), colours, strict=True)
        ],
        "virtual time [min]",
    )
    left.set_title("delay after equal epochs; FL also after its own")
    series = [
        Series(
            f"ours, {label}",
            [minutes / seen.minutes["sft"] for minutes in _minutes(seen)],
            colour,
            digits=2,
        )
        for label, seen, colour in zip(labels, (first, second), colours, strict=True)
    ]
    known = [f"{value:g}" for value in pair.fl_times_sft if value is not None]
    if known:
        rows[2] += f"\n(paper: {' and '.join(known)})"
    draw_bars(right, rows, series, "delay over that of SFT")
    right.set_title("times the delay of SFT")
    legend_and_title(figure, (left, right), setting)
    return figure


def _names(seen: Evaluation) -> list[str]:
    """The rows: FL once after equal epochs and once after its own."""
    names = list(NAMES.values())
    return [*names[:2], f"FL, {seen.fl_rounds:.1f} epochs", *names[2:]]


def _minutes(seen: Evaluation) -> list[float]:
    values = [seen.minutes[name] for name in NAMES]
    return [*values[:2], seen.fl_own_minutes, *values[2:]]
