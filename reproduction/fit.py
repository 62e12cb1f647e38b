"""The one constant that the paper's minutes need: how many local steps each device trains.

The paper prints minutes to a target accuracy and never how many steps those are. Of the split
schemes all minutes follow from one number of steps, found here; FL's does not, see `fl_rounds`.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from cutlayer.rounds.schemes import FL_LORA, SCHEMES
from reproduction.setting import EVALUATION, Minutes, Setting, minutes_of

# Section VIII-B.5, CIFAR-100, not IID; SplitLoRA is given as 11.96 times SFT
SFT_MINUTES = Decimal("81.4")
FL_MINUTES = Decimal("419.6")
PRINTED_MINUTES: Mapping[str, Decimal] = {
    "sft": SFT_MINUTES,
    "sft-uncompressed": Decimal("906.9"),
    "splitlora-paper": Decimal("973.5"),
    "sl": Decimal("1071.1"),
}


@dataclass(frozen=True)
class Fit:
    """A reading's best number of local steps, and how far each scheme's minutes are off then.

    `deviations` are parts of the printed minutes: 0.02 is 2 % above.
    """

    local_steps: float
    rounds: float
    minutes: Mapping[str, float]
    deviations: Mapping[str, float]

    @property
    def worst(self) -> float:
        """The largest deviation, either way."""
        return max(abs(deviation) for deviation in self.deviations.values())


def fit(setting: Setting = EVALUATION) -> Fit:
    """The local steps that make the worst relative deviation from `PRINTED_MINUTES` least."""
    lines = {name: minutes_of(setting, SCHEMES[name]) for name in PRINTED_MINUTES}
    steps = least_worst([_deviation(lines[name], PRINTED_MINUTES[name]) for name in lines])
    fitted = {name: line.after(steps) for name, line in lines.items()}
    deviations = {name: fitted[name] / float(PRINTED_MINUTES[name]) - 1.0 for name in fitted}
    return Fit(steps, steps / setting.epoch_steps, fitted, deviations)


def fl_rounds(setting: Setting = EVALUATION) -> float:
    """Rounds of one epoch in which FL with LoRA takes the printed minutes: a constant of its own.

    FL with LoRA and SFT without compression are the same training, so one constant should do.
    """
    line = minutes_of(setting, FL_LORA)
    return (float(FL_MINUTES) - line.start) / line.each_step / setting.epoch_steps


def _deviation(line: Minutes, printed: Decimal) -> Minutes:
    """The relative deviation is a line in the steps too."""
    return Minutes(line.start / float(printed) - 1.0, line.each_step / float(printed))


def least_worst(deviations: Sequence[Minutes]) -> float:
    """The steps at which the largest of |deviations|, which are lines in the steps, is least.

    That largest one is convex and made of pieces of the lines and of their mirror images, so it is
    least where two of them meet.
    """
    mirrored = [Minutes(-line.start, -line.each_step) for line in deviations]
    meetings = [
        (b.start - a.start) / (a.each_step - b.each_step)
        for a, b in itertools.combinations((*deviations, *mirrored), 2)
        if a.each_step != b.each_step
    ]
    return min(meetings, key=lambda steps: max(abs(line.after(steps)) for line in deviations))
