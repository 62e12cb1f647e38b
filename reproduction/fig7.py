"""Fig. 7 of the paper: accuracy against sparsity and against bit width, by real training runs.

    python -m reproduction fig7         7 min; results/fig7

Section VI-B.3 says of it: the accuracy starts to drop sharply when the sparsity reaches 90 %; the
loss stays within 2 points at 80 % sparsity and 3 bits, which compress 12x, and 20x with lossless
encoding.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cutlayer.profiling.measure import JobStart, RunResult
from cutlayer.report.drawing import INK, new_figure
from cutlayer.report.wording import DEVICE_COLOUR, OTHER_COLOUR
from reproduction.catalogue import Cells, Made, Options, caption, write
from reproduction.claims import Claim, Reference, Said, Verdict, judge_at_most, judge_larger
from reproduction.evaluation import (
    BY_BITS,
    BY_SPARSITY,
    CLAIMED,
    CODED_RATIO,
    FLOAT32_BITS,
    GRID,
    HALF,
    PAPER_WIDTH,
    QUICK_GRID,
    SPARSEST_CLAIMED,
    SPARSIFIED_RATIO,
    UNCOMPRESSED,
    Point,
    indexed_ratio,
)
from reproduction.training import Run, Size, config_of, setting_of, train_grid

MOST_LOST = Decimal("2")


@dataclass(frozen=True)
class Seen:
    """Means over the seeds: accuracy [%], bits per element of activations, the same values' bits in
    `paper-rans`; `before` is the accuracy [%] before training, `width` the model's."""

    before: float
    accuracy: Mapping[Point, float]
    bits: Mapping[Point, float]
    bits_plus: Mapping[Point, float]
    width: int
    test_samples: int

    def lost(self, point: Point) -> float:
        """Accuracy that `point` costs against no compression [points]."""
        return self.accuracy[UNCOMPRESSED] - self.accuracy[point]

    @property
    def noise(self) -> float:
        """The standard error of an accuracy that comes from so many test samples [points].

        sqrt(p (1 - p) / n) of the uncompressed one. All points share the test samples, so the error
        of a difference is at most sqrt(2) times that.
        """
        share = self.accuracy[UNCOMPRESSED] / 100
        return 100 * math.sqrt(share * (1 - share) / self.test_samples)


def claims_of(seen: Seen) -> tuple[Claim, ...]:
    """The text's four claims."""
    return (_most_lost(seen), _sharp_drop(seen), _sparsified(seen), _coded(seen))


def _most_lost(seen: Seen) -> Claim:
    lost = seen.lost(CLAIMED)
    error = math.sqrt(2) * seen.noise
    reach = seen.accuracy[UNCOMPRESSED] - seen.before
    verdict = judge_at_most(MOST_LOST, lost, reach=reach)
    reason = (
        f"{seen.accuracy[UNCOMPRESSED]:.1f} % uncompressed (from {seen.before:.1f} % untrained), "
        f"{seen.accuracy[CLAIMED]:.1f} % compressed, the difference uncertain by {error:.1f} points"
        f" on {seen.test_samples} test samples"
    )
    if not reach > float(MOST_LOST):
        reason += "; the training gained too little for anything to be lost"
    elif abs(lost - float(MOST_LOST)) <= error:
        reason += ": too close to the bound to be sure"
    said = Said(f"accuracy lost at {CLAIMED}", f"at most {MOST_LOST}", "points", MOST_LOST)
    return said.judged(lost, verdict, f"{reason}; {_most_within(seen)}.")


def _most_within(seen: Seen) -> str:
    """The point of fewest bits that keeps the bound."""
    within = [
        point
        for point in seen.accuracy
        if point != UNCOMPRESSED and seen.lost(point) <= float(MOST_LOST)
    ]
    if not within:
        return f"no compressed point of the grid stays within {MOST_LOST} points"
    most = min(within, key=seen.bits.__getitem__)
    ratio = FLOAT32_BITS / seen.bits[most]
    return (
        f"of the grid's points within {MOST_LOST} points, {most} takes fewest bits ({ratio:.1f}x)"
    )


def _sharp_drop(seen: Seen) -> Claim:
    late = _drop_per_tenth(seen, CLAIMED, SPARSEST_CLAIMED)
    early = _drop_per_tenth(seen, HALF, CLAIMED)
    # of a weighted sum of three accuracies: (4/3) a(80 %) - a(90 %) - (1/3) a(50 %)
    noise = seen.noise * math.sqrt((4 / 3) ** 2 + 1 + (1 / 3) ** 2)
    verdict = judge_larger(late, early, noise=noise)
    compared = "more" if verdict is Verdict.ORDERING else "not clearly more"
    said = Said("accuracy lost from 80 to 90 % sparsity", "a sharp drop", "points")
    return said.judged(
        late,
        verdict,
        f"That is {compared} than the {early:.2f} points lost per 10 % of sparsity from 50 to 80 %"
        f" (uncertain by {noise:.1f} points); the text gives no number.",
    )


def _drop_per_tenth(seen: Seen, dense: Point, sparse: Point) -> float:
    """Accuracy lost per 10 % of sparsity between two points [points]."""
    return (seen.accuracy[dense] - seen.accuracy[sparse]) / (sparse.sparsity - dense.sparsity) * 10


def _sparsified(seen: Seen) -> Claim:
    ours = indexed_ratio(PAPER_WIDTH, CLAIMED, sign=False)
    index_bits = math.ceil(math.log2(PAPER_WIDTH))
    said = Said(f"compression by {CLAIMED}", f"{SPARSIFIED_RATIO}x", "times", SPARSIFIED_RATIO)
    return said.number(
        ours,
        f"{FLOAT32_BITS} / ({CLAIMED.keep_ratio} x ({index_bits}-bit column index + "
        f"{CLAIMED.bits} bits)) at the paper's width of {PAPER_WIDTH}; it leaves out the sign,"
        f" with which it is {indexed_ratio(PAPER_WIDTH, CLAIMED, sign=True):.2f}; at this model's"
        f" width of {seen.width} it is {indexed_ratio(seen.width, CLAIMED, sign=False):.2f} without"
        f" and {indexed_ratio(seen.width, CLAIMED, sign=True):.2f} with it.",
    )


def _coded(seen: Seen) -> Claim:
    ours = FLOAT32_BITS / seen.bits[CLAIMED]
    plus = FLOAT32_BITS / seen.bits_plus[CLAIMED]
    said = Said(
        f"compression by {CLAIMED} with lossless encoding", f"{CODED_RATIO}x", "times", CODED_RATIO
    )
    return said.number(
        ours,
        f"Measured on every activation packet of the training: Golomb gaps, {CLAIMED.bits} bits and"
        f" a sign, {seen.bits[CLAIMED]:.3f} bits an element; paper-rans makes {plus:.1f}x of the"
        f" same values ({seen.bits_plus[CLAIMED]:.3f} bits).",
        reference=Reference(SPARSIFIED_RATIO, indexed_ratio(seen.width, CLAIMED, sign=False)),
    )


Spread = tuple[float, float]
_OURS = "#1f5a93"
_BAND = "#dfe3e8"


def draw(seen: Seen, spreads: Mapping[Point, Spread], setting: str) -> Figure:
    """Three panels under a line that says what was trained; call it inside `plain_style`."""
    figure = new_figure(430)
    by_sparsity, by_bits, ratios = figure.subplots(1, 3, width_ratios=(1.15, 1.0, 0.95))
    _accuracy(by_sparsity, seen, spreads, BY_SPARSITY, lambda point: point.sparsity)
    _accuracy(by_bits, seen, spreads, BY_BITS, lambda point: float(point.bits))
    _claims_by_sparsity(by_sparsity, seen)
    _claims_by_bits(by_bits, seen)
    for axes in (by_sparsity, by_bits):
        axes.margins(y=0.13)
    _ratios(ratios, seen)
    handles, labels = by_sparsity.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), handlelength=1.6)
    caption(figure, setting)
    return figure


def _accuracy(
    axes: Axes,
    seen: Seen,
    spreads: Mapping[Point, Spread],
    points: Sequence[Point],
    position: Callable[[Point], float],
) -> None:
    """A line through the means, and an upright one from the lowest to the highest seed."""
    trained = [point for point in points if point in seen.accuracy]
    positions = [position(point) for point in trained]
    means = [seen.accuracy[point] for point in trained]
    axes.plot(positions, means, "o-", color=_OURS, linewidth=1.8, markersize=5, label="ours")
    low, high = ([spreads[point][end] for point in trained] for end in (0, 1))
    axes.vlines(positions, low, high, color=_OURS, linewidth=1.2)
    for place, point in enumerate(trained):
        if math.isfinite(means[place]):
            _label(axes, positions, means, place, bold=point == CLAIMED)
    axes.axhline(
        seen.accuracy[UNCOMPRESSED],
        color=INK,
        linewidth=1.2,
        linestyle="--",
        label=f"uncompressed, {seen.accuracy[UNCOMPRESSED]:.1f} %",
    )
    axes.yaxis.set_major_formatter("{x:g} %")


def _label(
    axes: Axes, positions: Sequence[float], values: Sequence[float], place: int, *, bold: bool
) -> None:
    """The value beside its point, where the line does not go."""
    here = values[place]
    steps = [here - values[place - 1]] if place else []
    steps += [after - here for after in values[place + 1 : place + 2]]
    enters, leaves = (steps[0], steps[-1]) if steps else (0.0, 0.0)
    if enters * leaves < 0:  # a peak or a valley
        side, offset, edge = (
            "center",
            (0, -9 if enters > 0 else 7),
            "top" if enters > 0 else "bottom",
        )
    else:
        side, offset, edge = ("left", (5, -4), "top") if enters > 0 else ("right", (-5, -4), "top")
    axes.annotate(
        f"{here:.1f}",
        (positions[place], here),
        xytext=offset,
        textcoords="offset points",
        ha=side,
        va=edge,
        fontsize=10,
        color=INK,
        weight="bold" if bold else "normal",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.2},
    )


def _claims_by_sparsity(axes: Axes, seen: Seen) -> None:
    axes.set_title(f"accuracy by sparsity, {CLAIMED.bits} bits")
    axes.set_xlabel("values dropped [%]")
    axes.set_xticks([0, 25, 50, 70, 80, 90])
    axes.set_xlim(-14, 101)
    _band(axes, seen, 0, CLAIMED.sparsity)
    axes.axvline(
        SPARSEST_CLAIMED.sparsity,
        color=OTHER_COLOUR,
        linewidth=1.2,
        linestyle=":",
        label="paper: a sharp drop from here",
    )


def _claims_by_bits(axes: Axes, seen: Seen) -> None:
    axes.set_title(f"accuracy by bits, {CLAIMED.sparsity:g} % dropped")
    axes.set_xlabel("bits of a kept value's level")
    axes.set_xticks([point.bits for point in BY_BITS])
    last = max(point.bits for point in BY_BITS)
    axes.set_xlim(0.5, last + 1.0)
    _band(axes, seen, CLAIMED.bits, last + 1.0)


def _band(axes: Axes, seen: Seen, first: float, last: float) -> None:
    """Where the paper's curve is, to the right of `first` and to the left of `last`."""
    top, height = seen.accuracy[UNCOMPRESSED], float(MOST_LOST)
    if math.isfinite(top):
        box = Rectangle((first, top - height), last - first, height, facecolor=_BAND, linewidth=0)
        box.set_label(f"paper: at most {MOST_LOST} points lost")
        box.set_zorder(0.4)
        axes.add_patch(box)


def _ratios(axes: Axes, seen: Seen) -> None:
    """A bar for each ratio, the paper's in grey, ours in colour."""
    coded, plus = (FLOAT32_BITS / bits[CLAIMED] for bits in (seen.bits, seen.bits_plus))
    bars = [
        ("paper, index and bits", float(SPARSIFIED_RATIO), OTHER_COLOUR),
        (f"computed, width {PAPER_WIDTH}", _indexed(PAPER_WIDTH), _OURS),
        (f"computed, width {seen.width}", _indexed(seen.width), _OURS),
        ("paper, lossless coding", float(CODED_RATIO), OTHER_COLOUR),
        ("measured, codec paper", coded, _OURS),
        ("measured, paper-rans", plus, DEVICE_COLOUR),
    ]
    places = range(len(bars))
    names, values, colours = zip(*bars, strict=True)
    axes.barh(places, values, color=colours, height=0.62)
    for place, value in zip(places, values, strict=True):
        if math.isfinite(value):
            axes.text(value, place, f" {value:.1f}x", va="center", fontsize=10.5, color=INK)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.margins(x=0.2)
    axes.set_title(f"times fewer bytes, {CLAIMED.sparsity:g} % and {CLAIMED.bits} bits")
    axes.set_xlabel("float32 / sent")


def _indexed(width: int) -> float:
    return indexed_ratio(width, CLAIMED, sign=False)


SIZE = Size(rounds=4, local_steps=5, batch=16, test_samples=800)
QUICK_SIZE = Size(rounds=1, local_steps=2, batch=8, test_samples=64)


def make(options: Options, output: Path) -> Made:
    """Train the grid, judge, write."""
    config = config_of(options, QUICK_SIZE if options.quick else SIZE)
    grid = QUICK_GRID if options.quick else GRID
    runs, start = train_grid(config, options.seeds, grid, output)
    seen = _seen(runs, grid, start)
    setting = setting_of(config, options)
    spreads, tables = _spreads(runs, grid), {"fig7": [_row(run) for run in runs]}

    def picture() -> Figure:
        return draw(seen, spreads, setting)

    return write("fig7", output, setting, claims_of(seen), tables, picture)


def _seen(runs: Sequence[Run], grid: Sequence[Point], start: JobStart) -> Seen:
    def means(value: Callable[[RunResult], float]) -> dict[Point, float]:
        return {p: mean(value(run.trained) for run in runs if run.point == p) for p in grid}

    return Seen(
        before=100 * mean(run.before for run in runs),
        accuracy=means(lambda trained: 100 * trained.accuracy),
        bits=means(lambda trained: trained.bits_up),
        bits_plus=means(lambda trained: trained.bits_up_other),
        width=start.setup.simulation.model.width,
        test_samples=len(start.setup.server.test),
    )


def _spreads(runs: Sequence[Run], grid: Sequence[Point]) -> dict[Point, Spread]:
    """The lowest and the highest accuracy of each point [%]."""
    found = {p: [100 * run.trained.accuracy for run in runs if run.point == p] for p in grid}
    return {point: (min(values), max(values)) for point, values in found.items()}


def _row(run: Run) -> Cells:
    point, trained = run.point, run.trained
    return {
        "sparsity_percent": f"{point.sparsity:g}",
        "keep_ratio": point.keep_ratio,
        "bits": point.bits,
        "seed": run.seed,
        "accuracy": f"{trained.accuracy:.4f}",
        "accuracy_before": f"{run.before:.4f}",
        "loss": f"{trained.loss:.4f}",
        "bits_up": f"{trained.bits_up:.4f}",
        "bits_down": f"{trained.bits_down:.4f}",
        "bits_up_paper_rans": f"{trained.bits_up_other:.4f}",
    }
