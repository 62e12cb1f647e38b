"""What the paper's text says of Fig. 5, judged by what was seen in trainings.

The text prints no number: at best the ordering is borne out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from cutlayer.profiling.training import standard_error
from reproduction.claims import CLOSE, Claim, Verdict, judge_larger
from reproduction.fig5_lines import (
    LINES,
    PARTITIONS,
    PLAIN,
    SFT_BEST,
    SFT_PAPER,
    Line,
    Partition,
)


@dataclass(frozen=True)
class Seen:
    """Accuracy [%] of each line on each partition, by seed, then by round of `rounds`."""

    rounds: tuple[int, ...]
    curves: Mapping[tuple[Partition, Line], Sequence[Sequence[float]]]
    test_samples: int

    def means(self, partition: Partition, line: Line) -> list[float]:
        """The mean over the seeds, by round."""
        return [mean(values) for values in zip(*self.curves[partition, line], strict=True)]

    def last(self, partition: Partition, line: Line) -> float:
        """The mean after the last round."""
        return self.means(partition, line)[-1]

    def noise(self, accuracy: float, weight: float = 1.0) -> float:
        """The standard error of a difference: accuracies on the same samples, one times `weight`.

        Errors of the same samples mostly go together, so this is at most sqrt(1 + weight^2) times
        that of one [points].
        """
        return math.sqrt(1 + weight**2) * standard_error(accuracy, self.test_samples)


def claims_of(seen: Seen) -> tuple[Claim, ...]:
    """The text's claims, for each partition."""
    return tuple(
        claim
        for partition in PARTITIONS
        for claim in (
            _converges(seen, partition),
            _comparable(seen, partition, SFT_PAPER, "paper's codec"),
            _comparable(seen, partition, SFT_BEST, "codec best"),
            _improves(seen, partition),
        )
    )


def _converges(seen: Seen, partition: Partition) -> Claim:
    means = seen.means(partition, SFT_PAPER)
    before, after = means[0], means[-1]
    noise = seen.noise(after)
    highest = max((value for value in means if math.isfinite(value)), default=math.nan)
    return Claim(
        f"accuracy that SFT gains, {partition.title}",
        "robust convergence",
        None,
        after - before,
        "points",
        judge_larger(after, before, noise=noise),
        f"From {before:.1f} to {after:.1f} % in {seen.rounds[-1]} rounds with the paper's codec, "
        f"the highest {highest:.1f} % (a difference is uncertain by {noise:.1f} points on "
        f"{seen.test_samples} test samples); the text gives no number.",
    )


def _comparable(seen: Seen, partition: Partition, line: Line, codec: str) -> Claim:
    """Comparable is taken as: more than 95 % of the best benchmark's accuracy, beyond noise."""
    benchmarks = {other: seen.last(partition, other) for other in LINES if other.benchmark}
    best = max(benchmarks, key=benchmarks.__getitem__)
    ours, baseline = seen.last(partition, line), benchmarks[best]
    noise = seen.noise(baseline, 1 - CLOSE)
    verdict = judge_larger(ours, (1 - CLOSE) * baseline, noise=noise)
    others = ", ".join(f"{other.name} {value:.1f} %" for other, value in benchmarks.items())
    shown = "is" if verdict is Verdict.ORDERING else "is not shown to be"
    return Claim(
        f"SFT ({codec}) less the best benchmark, {partition.title}",
        "comparable",
        None,
        ours - baseline,
        "points",
        verdict,
        f"{ours:.1f} % beside {others}, after {seen.rounds[-1]} rounds: that {shown} more than "
        f"{100 * (1 - CLOSE):g} % of the best, as comparable is taken here (uncertain by "
        f"{noise:.1f} points); SL and the published SplitLoRA step the server's adapters once for "
        f"every device, SFT once for all.",
    )


def _improves(seen: Seen, partition: Partition) -> Claim:
    ours, plain = seen.last(partition, SFT_PAPER), seen.last(partition, PLAIN)
    best = seen.last(partition, SFT_BEST)
    noise = seen.noise(plain)
    return Claim(
        f"accuracy that compression adds, {partition.title}",
        "slight improvements",
        None,
        ours - plain,
        "points",
        judge_larger(ours, plain, noise=noise),
        f"{ours:.1f} % with the paper's codec, {plain:.1f} % without, {best:.1f} % with best "
        f"(differences uncertain by {noise:.1f} points).",
    )
