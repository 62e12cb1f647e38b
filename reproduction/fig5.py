"""Fig. 5 of the paper: accuracy by round of every scheme, samples dealt evenly and unevenly.

    python -m reproduction fig5         9 min; results/fig5

Section VIII-B.1 says of it: SFT converges robustly under IID and non-IID conditions, is comparable
to the benchmarks, and compression even improves it slightly. It prints no number: at best the
ordering is borne out.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.config.schema import Config
from cutlayer.report.drawing import INK, new_figure
from reproduction.catalogue import Made, Options, caption, write
from reproduction.claims import CLOSE, Claim, Said, Verdict, judge_larger
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

# at the rate of LoRA adapters and the head full weights forget what they were pretrained to
FULL_LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Partition:
    """How samples are dealt over devices."""

    name: str
    title: str
    settings: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Line:
    """A training run: `name` in the CSV, `title` in the legend. `benchmark`: one of the paper's."""

    name: str
    title: str
    scheme: str
    codec: str
    benchmark: bool
    learning_rate: float = LEARNING_RATE

    @property
    def settings(self) -> dict[str, Any]:
        """Its part of the configuration, by dotted key."""
        own: dict[str, Any] = {
            "scheme.name": self.scheme,
            "optimizer.learning_rate": self.learning_rate,
        }
        if self.codec == "none":  # schemes that compress nothing read no codec
            return own
        return own | (PAPER_CODEC if self.codec == "paper" else {"codec.name": self.codec})


IID = Partition("iid", "IID", (("partition.name", "iid"),))
DIRICHLET = Partition(
    "dirichlet",
    "Dirichlet 0.5",
    (("partition.name", "dirichlet"), ("partition.alpha", 0.5)),
)
PARTITIONS = (IID, DIRICHLET)

SFT_PAPER = Line("sft-paper", "SFT, paper's codec (80 %, 3 bits)", "sft", "paper", False)
SFT_BEST = Line("sft-best", "SFT, codec best", "sft", "best", False)
# without compression these end with the same adapters, bit for bit, wherever the work is done:
# they are trained once and drawn once
SAME_ADAPTERS = ("sft-uncompressed", "splitlora-paper", "fl-lora")
PLAIN = Line(
    "sft-uncompressed",
    "SFT uncompressed = SplitLoRA (as the paper has it) = FL with LoRA",
    "sft-uncompressed",
    "none",
    True,
)
SL = Line("sl", "SL (sequential)", "sl", "none", True)
SPLITLORA = Line("splitlora", "SplitLoRA (as published)", "splitlora", "none", True)
FL_FULL = Line(
    "fl-full",
    f"FL with full weights (rate {FULL_LEARNING_RATE:g})",
    "fl-full",
    "none",
    False,
    FULL_LEARNING_RATE,
)
LINES = (SFT_PAPER, SFT_BEST, PLAIN, SL, SPLITLORA, FL_FULL)


Seen = Curves[tuple[Partition, Line]]


def noise_of(seen: Seen, accuracy: float, weight: float = 1.0) -> float:
    """The standard error of a difference: accuracies on the same samples, one times `weight`.

    Errors of the same samples mostly go together, so this is at most sqrt(1 + weight^2) times that
    of one [points].
    """
    return math.sqrt(1 + weight**2) * standard_error(accuracy, seen.test_samples)


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
    means = seen.means((partition, SFT_PAPER))
    before, after = means[0], means[-1]
    noise = noise_of(seen, after)
    highest = max((value for value in means if math.isfinite(value)), default=math.nan)
    said = Said(f"accuracy that SFT gains, {partition.title}", "robust convergence", "points")
    return said.judged(
        after - before,
        judge_larger(after, before, noise=noise),
        f"From {before:.1f} to {after:.1f} % in {seen.rounds[-1]} rounds with the paper's codec, "
        f"the highest {highest:.1f} % (a difference is uncertain by {noise:.1f} points on "
        f"{seen.test_samples} test samples); the text gives no number.",
    )


def _comparable(seen: Seen, partition: Partition, line: Line, codec: str) -> Claim:
    """Comparable is taken as: more than 95 % of the best benchmark's accuracy, beyond noise."""
    benchmarks = {other: seen.last((partition, other)) for other in LINES if other.benchmark}
    best = max(benchmarks, key=benchmarks.__getitem__)
    ours, baseline = seen.last((partition, line)), benchmarks[best]
    noise = noise_of(seen, baseline, 1 - CLOSE)
    verdict = judge_larger(ours, (1 - CLOSE) * baseline, noise=noise)
    others = ", ".join(f"{other.name} {value:.1f} %" for other, value in benchmarks.items())
    shown = "is" if verdict is Verdict.ORDERING else "is not shown to be"
    said = Said(f"SFT ({codec}) less the best benchmark, {partition.title}", "comparable", "points")
    return said.judged(
        ours - baseline,
        verdict,
        f"{ours:.1f} % beside {others}, after {seen.rounds[-1]} rounds: that {shown} more than "
        f"{100 * (1 - CLOSE):g} % of the best, as comparable is taken here (uncertain by "
        f"{noise:.1f} points); SL and the published SplitLoRA step the server's adapters once for "
        f"every device, SFT once for all.",
    )


def _improves(seen: Seen, partition: Partition) -> Claim:
    ours, plain = seen.last((partition, SFT_PAPER)), seen.last((partition, PLAIN))
    best = seen.last((partition, SFT_BEST))
    noise = noise_of(seen, plain)
    said = Said(
        f"accuracy that compression adds, {partition.title}", "slight improvements", "points"
    )
    return said.judged(
        ours - plain,
        judge_larger(ours, plain, noise=noise),
        f"{ours:.1f} % with the paper's codec, {plain:.1f} % without, {best:.1f} % with best "
        f"(differences uncertain by {noise:.1f} points).",
    )


# colour, line, width, marker
_LOOKS = {
    SFT_PAPER: ("#1f5a93", "-", 2.4, "o"),
    SFT_BEST: ("#35ab9b", "-", 2.4, "s"),
    PLAIN: (INK, "--", 1.6, ""),
    SL: ("#b3560f", "-", 1.4, "^"),
    SPLITLORA: ("#f0a13c", "-", 1.4, "v"),
    FL_FULL: ("#7657a6", ":", 1.8, "D"),
}


def draw(seen: Seen, setting: str) -> Figure:
    """Two panels under a line that says what was trained; call it inside `plain_style`."""
    figure = new_figure(470)
    panels = figure.subplots(1, len(PARTITIONS), sharey=True)
    for axes, partition in zip(panels, PARTITIONS, strict=True):
        _panel(axes, seen, partition)
    panels[0].set_ylabel("accuracy")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=2, handlelength=2.6)
    caption(figure, setting)
    return figure


def _panel(axes: Axes, seen: Seen, partition: Partition) -> None:
    for line in LINES:
        colour, style, width, marker = _LOOKS[line]
        axes.plot(
            seen.rounds,
            seen.means((partition, line)),
            linestyle=style,
            linewidth=width,
            marker=marker,
            markersize=5,
            color=colour,
            label=_label(seen, line),
        )
        draw_range(axes, seen, (partition, line), colour, alpha=0.12)
    accuracy_axes(axes, seen.rounds, seen.last((partition, PLAIN)), seen.test_samples)
    axes.set_title(partition.title)


def _label(seen: Seen, line: Line) -> str:
    """The line's name, and where it ends in either panel."""
    ends = " and ".join(f"{seen.last((partition, line)):.1f}" for partition in PARTITIONS)
    return f"{line.title}: {ends} %"


SIZE = Size(rounds=5, local_steps=3, batch=12, test_samples=300)
QUICK_SIZE = Size(rounds=2, local_steps=1, batch=4, test_samples=40)


def make(options: Options, output: Path) -> Made:
    """Train every line, judge, write."""
    jobs = [
        Job(
            (partition, line),
            f"{partition.title}, {line.name}",
            {"partition": partition.name, "line": line.name},
            config_of(options, partition, line),
        )
        for partition in PARTITIONS
        for line in LINES
    ]
    seen, rows = train_lines(jobs, options.seeds, range, output)
    setting = setting_of(jobs[0].config, options)
    tables = {"fig5": rows}
    return write("fig5", output, setting, claims_of(seen), tables, lambda: draw(seen, setting))


def config_of(options: Options, partition: Partition, line: Line) -> Config:
    """The job of one line. Raises ConfigError for a wrong option."""
    size = QUICK_SIZE if options.quick else SIZE
    return job(options, size, dict(partition.settings) | line.settings)


def setting_of(config: Config, options: Options) -> str:
    """What was trained, in one line: never to be taken for the paper's ViTs."""
    training, model, data = config.training, Path(config.model.name), Path(config.data.name)
    return (
        f"{model.name} cut after block {config.model.cut} on {data.name}, {DEVICES} devices, "
        f"{training.rounds} x {training.local_steps} steps of {training.batch_size} samples, "
        f"{config.optimizer.name}, {seeds_text(options)}; the paper: ViTs on CIFAR-100 and "
        "Tiny-ImageNet"
    )
