"""Fig. 14 of the paper: SFT's accuracy by round for more and fewer training samples.

    python -m reproduction fig14        6 min; results/fig14

Section VIII-B.6 says of it: with 50,000 samples the accuracy exceeds 85 % within six rounds, with
10,000 it only reaches about 82 %, and it is stable within 20 rounds whatever the volume. A round is
one pass over the samples here, so more samples are more steps.
"""

import math
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.config.schema import Config
from cutlayer.report.drawing import INK, new_figure
from cutlayer.report.wording import OTHER_COLOUR
from reproduction.catalogue import Made, Options, caption, write
from reproduction.claims import Claim, Said, Verdict, judge_at_most, judge_larger
from reproduction.training import (
    DEVICES,
    LEARNING_RATE,
    PAPER_CODEC,
    Curves,
    Job,
    Size,
    accuracy_axes,
    draw_range,
    job,
    seeds_text,
    standard_error,
    train_lines,
)

# the round at which the paper compares, and the one by which all is stable
WITHIN = 6
STABLE = Decimal("20")
MOST, FEWEST = Decimal("85"), Decimal("82")


Seen = Curves[int]


def at(seen: Seen, samples: int, number: int) -> float:
    """The mean accuracy after round `number`, or after the last one evaluated before it [%]."""
    place = max(i for i, evaluated in enumerate(seen.rounds) if evaluated <= number)
    return seen.means(samples)[place]


def noise_of(seen: Seen) -> float:
    """The standard error of a difference of two accuracies [points]: at most sqrt(2) times that of
    the least certain last one, since all share the test samples."""
    errors = [standard_error(seen.last(samples), seen.test_samples) for samples in seen.curves]
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
    few, many, noise = min(seen.curves), max(seen.curves), noise_of(seen)
    number = min(WITHIN, seen.rounds[-1])
    most, fewest = at(seen, many, number), at(seen, few, number)
    said = Said(
        f"accuracy after {number} rounds, {many} samples less {few}",
        f"above {MOST} % less about {FEWEST} %",
        "points",
        MOST - FEWEST,
    )
    return said.judged(
        most - fewest,
        judge_larger(most, fewest, noise=noise),
        f"{most:.1f} % less {fewest:.1f} % (uncertain by {noise:.1f} points on "
        f"{seen.test_samples} test samples): five times the samples as in the paper, but a smaller "
        f"model, other data and one for every {10_000 / few:.0f} of its samples, so neither"
        " accuracy is comparable with its own.",
    )


def _sooner(seen: Seen) -> Claim:
    few, many, noise = min(seen.curves), max(seen.curves), noise_of(seen)
    goal = seen.last(few)
    means = seen.means(many)
    reached = [
        number for number, value in zip(seen.rounds, means, strict=True) if value >= goal + noise
    ]
    rounds = float(reached[0]) if reached else math.nan
    shown = f"in round {rounds:.0f}" if reached else "not clearly"
    said = Said(f"rounds with {many} samples to where {few} end", "fewer rounds", "rounds")
    return said.judged(
        rounds,
        judge_larger(float(seen.rounds[-1]), rounds, noise=0.0),
        f"{few} samples end at {goal:.1f} % after {seen.rounds[-1]} rounds; {many} are"
        f" {noise:.1f} points (the uncertainty) above that {shown}.",
    )


def _at_the_end(seen: Seen) -> Claim:
    few, many, noise = min(seen.curves), max(seen.curves), noise_of(seen)
    most, fewest = seen.last(many), seen.last(few)
    ends = ", ".join(f"{seen.last(n):.1f} % with {n}" for n in sorted(seen.curves))
    said = Said(
        f"final accuracy, {many} samples less {few}", "a slight decrease with fewer", "points"
    )
    return said.judged(
        most - fewest,
        judge_larger(most, fewest, noise=noise),
        f"After {seen.rounds[-1]} rounds {ends} (differences uncertain by {noise:.1f} points);"
        " the text does not say how slight.",
    )


def _stable(seen: Seen) -> Claim:
    noise = noise_of(seen)
    found = {n: rounds_to_stable(seen.rounds, seen.means(n), noise) for n in seen.curves}
    slowest = max(found, key=found.__getitem__)
    reach = float(seen.rounds[-1])
    verdict = judge_at_most(STABLE, float(found[slowest]), reach=reach)
    each = ", ".join(f"{found[n]} with {n} samples" for n in sorted(found))
    reason = (
        f"From that round on the accuracy stays within {noise:.1f} points (the uncertainty) of"
        f" the one after {seen.rounds[-1]} rounds: {each}"
    )
    if verdict is Verdict.NOT_REPRODUCED and not reach > float(STABLE):
        reason += f"; {reach:.0f} rounds were trained, so {STABLE} could not have been missed"
    said = Said("rounds to a stable accuracy, the slowest", f"within {STABLE}", "rounds", STABLE)
    return said.judged(float(found[slowest]), verdict, f"{reason}.")


_COLOURS = ("#9cc3e3", "#3f83bd", "#123f6b")


def draw(seen: Seen, setting: str) -> Figure:
    """One panel under a line that says what was trained; call it inside `plain_style`."""
    figure = new_figure(380)
    axes = figure.subplots()
    for colour, samples in zip(_COLOURS, sorted(seen.curves), strict=True):
        _line(axes, seen, samples, colour)
    accuracy_axes(axes, seen.rounds, seen.last(min(seen.curves)), seen.test_samples)
    _marks(axes, seen.rounds[-1])
    axes.set_title("accuracy by round")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", handlelength=1.8)
    caption(figure, setting)
    return figure


def _line(axes: Axes, seen: Seen, samples: int, colour: str) -> None:
    """The means, the range over seeds, and a ring where the accuracy is stable."""
    means = seen.means(samples)
    label = f"{samples} samples: {means[-1]:.1f} %"
    axes.plot(seen.rounds, means, "o-", color=colour, linewidth=1.8, markersize=4, label=label)
    draw_range(axes, seen, samples, colour, alpha=0.15)
    stable = rounds_to_stable(seen.rounds, means, noise_of(seen))
    ring = f"stable to within {noise_of(seen):.1f} points" if samples == max(seen.curves) else None
    axes.plot(
        [stable],
        [means[seen.rounds.index(stable)]],
        "o",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor=INK,
        label=ring,
    )


def _marks(axes: Axes, last: int) -> None:
    """The rounds that the paper tells of."""
    styles = (
        (WITHIN, "--", f"paper: round {WITHIN}"),
        (int(STABLE), ":", f"paper: stable by round {STABLE}"),
    )
    for number, style, label in styles:
        if number <= last:
            axes.axvline(number, color=OTHER_COLOUR, linewidth=1.2, linestyle=style, label=label)


# one of these for every 10,000 samples of the paper
SHARE, QUICK_SHARE = 48, 16
TIMES = (1, 3, 5)
SIZE = Size(rounds=22, local_steps=1, batch=12, test_samples=300)
QUICK_SIZE = Size(rounds=2, local_steps=1, batch=4, test_samples=40)


def make(options: Options, output: Path) -> Made:
    """Train on each amount, judge, write."""
    amounts = [times * (QUICK_SHARE if options.quick else SHARE) for times in TIMES]
    jobs = [Job(n, f"{n} samples", {"samples": n}, config_of(options, n)) for n in amounts]
    seen, rows = train_lines(jobs, options.seeds, evaluated, output)
    setting = setting_of(jobs[0].config, options)
    tables = {"fig14": rows}
    return write("fig14", output, setting, claims_of(seen), tables, lambda: draw(seen, setting))


def config_of(options: Options, samples: int) -> Config:
    """The job on so many samples. Raises ConfigError for a wrong option."""
    one_pass: dict[str, Any] = {
        "data.train_samples": samples,  # fewer are a part of more
        "partition.name": "iid",
        "training.local_steps": None,
        "training.local_epochs": 1,
        "scheme.name": "sft",
        "optimizer.learning_rate": LEARNING_RATE,
    }
    return job(options, QUICK_SIZE if options.quick else SIZE, one_pass | PAPER_CODEC)


def evaluated(rounds: int) -> tuple[int, ...]:
    """Each round up to the one the paper tells of, then every second: testing takes time too."""
    return tuple(n for n in range(rounds + 1) if n <= WITHIN or n % 2 == 0)


def setting_of(config: Config, options: Options) -> str:
    """What was trained, in one line: never to be taken for the paper's ViT-B on CIFAR-100."""
    training, model, data = config.training, Path(config.model.name), Path(config.data.name)
    return (
        f"SFT, paper's codec, {model.name} cut after block {config.model.cut} on {data.name}, "
        f"{DEVICES} devices, {training.rounds} rounds of one pass in batches of "
        f"{training.batch_size}, {config.optimizer.name} {config.optimizer.learning_rate:g}, "
        f"{seeds_text(options)}; the paper: ViT-B, 10,000 to 50,000"
    )
