"""Fig. 13 of the paper: the schemes' delays with 20 devices beside 8.

    python -m reproduction fig13        2 s; expected/fig13.csv, expected/fig13-claims.csv

Analytic, after as many epochs as the main setting's minutes imply: FL takes 3.07 times as long as
SFT, where the paper prints 3.98. Drawn and written as Fig. 12 is.
"""

from decimal import Decimal
from pathlib import Path

from reproduction.catalogue import Made, Options
from reproduction.claims import Claim, Reference, Said, judge_larger
from reproduction.evaluation import NAMES, TWENTY_DEVICES, Evaluation
from reproduction.fig11 import FL_TIMES_SFT
from reproduction.fig12 import Pair, both, write_pair

FL_TIMES_SFT_OF_TWENTY = Decimal("3.98")
# a difference of less than this is no "significant" one [%]
_SIGNIFICANT_PERCENT = 5.0


def make(options: Options, output: Path) -> Made:
    """Compute, judge, write; no option matters."""
    published = float(FL_TIMES_SFT), float(FL_TIMES_SFT_OF_TWENTY)
    pair = Pair(("8 devices", "20 devices"), *both(TWENTY_DEVICES), published)
    return write_pair("fig13", output, pair, claims_of)


def claims_of(eight: Evaluation, twenty: Evaluation) -> tuple[Claim, ...]:
    """SFT's lead over FL, and that the others suffer from narrower shares."""
    return (_fl_times(eight, twenty), _baselines(eight, twenty, "sft-uncompressed"))


def _fl_times(eight: Evaluation, twenty: Evaluation) -> Claim:
    ours = twenty.fl_own_times_sft
    said = Said(
        "delay of FL over that of SFT, 20 devices",
        f"{FL_TIMES_SFT_OF_TWENTY}x",
        "times",
        FL_TIMES_SFT_OF_TWENTY,
    )
    return said.number(
        ours,
        f"With the epochs of 8 devices (FL its own {twenty.fl_rounds:.1f}) it falls from "
        f"{eight.fl_own_times_sft:.2f}, as the paper's falls from {FL_TIMES_SFT}, but further; "
        f"after the same {twenty.rounds:.2f} epochs FL takes {twenty.times_sft('fl-lora'):.2f} of "
        f"SFT's delay.",
        reference=Reference(FL_TIMES_SFT, eight.fl_own_times_sft),
    )


def _baselines(eight: Evaluation, twenty: Evaluation, name: str) -> Claim:
    before, after = eight.minutes[name], twenty.minutes[name]
    change = 100 * (after / before - 1)
    said = Said(f"delay of {NAMES[name]}, 20 devices against 8", "degrades significantly", "%")
    return said.judged(
        change,
        judge_larger(change, 0.0, noise=_SIGNIFICANT_PERCENT),
        f"It goes from {before:.0f} to {after:.0f} min: shares of the bandwidth are narrower, but "
        f"each device has less data by as much, so an epoch sends the same bytes over the same "
        "bandwidth.",
    )
