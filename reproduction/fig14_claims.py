"""What the paper's text says of Fig. 14, judged by what was seen in trainings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import mean

from cutlayer.profiling.training import standard_error
from reproduction.claims import Claim, Verdict, judge_at_most, judge_larger

# the round at which the paper compares, and the one by which all is stable
WITHIN = 6
STABLE = Decimal("20")
MOST, FEWEST = Decimal("85"), Decimal("82")


@dataclass(frozen=True)
class Seen:
    """Accuracy [%] by number of training samples, by seed, then by round of `rounds`."""

    rounds: tuple[int, ...]
    curves: Mapping[int, Sequence[Sequence[float]]]
    test_samples: int

    def means(self, samples: int) -> list[float]:
        """The mean over the seeds, by round."""
        return [mean(values) for values in zip(*self.curves[samples], strict=True)]

    def at(self, samples: int, number: int) -> float:
        """The mean after round `number`, or after the last one evaluated before it."""
        place = max(i for i, evaluated in enumerate(self.rounds) if evaluated <= number)
        return self.means(samples)[place]

    @property
    def fewest(self) -> int:
        """The smallest number of samples."""
        return min(self.curves)

    @property
    def most(self) -> int:
        """The largest number of samples."""
        return max(self.curves)

    @property
    def noise(self) -> float:
        """The standard error of a difference of two accuracies [points]: at most sqrt(2) times
        that of the least certain last one, since all share the test samples."""
        errors = [standard_error(self.means(n)[-1], self.test_samples) for n in self.curves]
        return math.sqrt(2) * max(errors)


def claims_of(seen: Seen) -> tuple[Claim, ...]:
    """The text's four claims."""
    return (_after_six(seen), _sooner(seen), _at_the_end(seen), _stable(seen))


def rounds_to_stable(rounds: Sequence[int], accuracy: Sequence[float], noise: float) -> int:
    """The first round from which on the accuracy stays within `noise` of the last one [rounds].

    The last round if it diverged.
    """
    stable = rounds[-1]
    for number, value in zip(reversed(rounds), reversed(accuracy), strict=True):
        if not abs(value - accuracy[-1]) <= noise:
            break
        stable = number
    return stable


def _after_six(seen: Seen) -> Claim:
    number = min(WITHIN, seen.rounds[-1])
    most, fewest = seen.at(seen.most, number), seen.at(seen.fewest, number)
    return Claim(
        f"accuracy after {number} rounds, {seen.most} samples less {seen.fewest}",
        f"above {MOST} % less about {FEWEST} %",
        MOST - FEWEST,
        most - fewest,
        "points",
        judge_larger(most, fewest, noise=seen.noise),
        f"{most:.1f} % less {fewest:.1f} % (uncertain by {seen.noise:.1f} points on "
        f"{seen.test_samples} test samples): five times the samples as in the paper, but a smaller "
        f"model, other data and one for every {10_000 / seen.fewest:.0f} of its samples, so neither"
        " accuracy is comparable with its own.",
    )


def _sooner(seen: Seen) -> Claim:
    goal = seen.means(seen.fewest)[-1]
    means = seen.means(seen.most)
    reached = [
        number
        for number, value in zip(seen.rounds, means, strict=True)
        if value >= goal + seen.noise
    ]
    rounds = float(reached[0]) if reached else math.nan
    shown = f"in round {rounds:.0f}" if reached else "not clearly"
    return Claim(
        f"rounds with {seen.most} samples to where {seen.fewest} end",
        "fewer rounds",
        None,
        rounds,
        "rounds",
        judge_larger(float(seen.rounds[-1]), rounds, noise=0.0),
        f"{seen.fewest} samples end at {goal:.1f} % after {seen.rounds[-1]} rounds; {seen.most} are"
        f" {seen.noise:.1f} points (the uncertainty) above that {shown}.",
    )


def _at_the_end(seen: Seen) -> Claim:
    most, fewest = seen.means(seen.most)[-1], seen.means(seen.fewest)[-1]
    ends = ", ".join(f"{seen.means(n)[-1]:.1f} % with {n}" for n in sorted(seen.curves))
    return Claim(
        f"final accuracy, {seen.most} samples less {seen.fewest}",
        "a slight decrease with fewer",
        None,
        most - fewest,
        "points",
        judge_larger(most, fewest, noise=seen.noise),
        f"After {seen.rounds[-1]} rounds {ends} (differences uncertain by {seen.noise:.1f} points);"
        " the text does not say how slight.",
    )


def _stable(seen: Seen) -> Claim:
    found = {n: rounds_to_stable(seen.rounds, seen.means(n), seen.noise) for n in seen.curves}
    slowest = max(found, key=found.__getitem__)
    reach = float(seen.rounds[-1])
    verdict = judge_at_most(STABLE, float(found[slowest]), reach=reach)
    each = ", ".join(f"{found[n]} with {n} samples" for n in sorted(found))
    reason = (
        f"From that round on the accuracy stays within {seen.noise:.1f} points (the uncertainty) of"
        f" the one after {seen.rounds[-1]} rounds: {each}"
    )
    if verdict is Verdict.NOT_REPRODUCED and not reach > float(STABLE):
        reason += f"; {reach:.0f} rounds were trained, so {STABLE} could not have been missed"
    return Claim(
        "rounds to a stable accuracy, the slowest",
        f"within {STABLE}",
        STABLE,
        float(found[slowest]),
        "rounds",
        verdict,
        f"{reason}.",
    )
