"""A sweep: runs of a grid of settings over seeds; means with confidence intervals, differences to a
baseline seed by seed, Pareto fronts, and one tidy table of it all.

A cell is one point of the grid; its runs differ by seed alone. Knows the records of runs, not their
files and no layout.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from cutlayer.report.comparison import (
    NOT_REACHED,
    ComparedRun,
    Comparison,
    RefusedRun,
    comparison_rows,
    settings_of,
)
from cutlayer.report.wording import Scale, byte_scale, column, counted, time_scale
from cutlayer.training.records import TrainedRound

CONFIDENCE = 0.95
# a difference that chance makes this rarely, had the settings none, is called one
SIGNIFICANCE = 0.05
_ROUNDING = 1e-12

Row = dict[str, str | float | None]


@dataclass(frozen=True)
class Estimate:
    """A mean of `count` seeds and the interval that holds it with 95 % confidence (None: of one
    seed alone)."""

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def margin(self) -> float | None:
        """Half of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def estimate(values: Sequence[float]) -> Estimate | None:
    """Student's t over the seeds; None without values, or where one is no number."""
    count = len(values)
    if not count or not all(math.isfinite(value) for value in values):
        return None
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, None, None, count)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    from scipy import stats  # a second, and not for other commands

    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * math.sqrt(variance / count)
    return Estimate(mean, mean - reach, mean + reach, count)


@dataclass(frozen=True)
class Difference:
    """A cell's value less the baseline's, over the seeds that both have.

    `p`: how likely chance alone makes the mean at least as far from 0 (paired t-test, two-sided;
    None: of one seed alone, or where all differences are equal). `p_adjusted`: the same, held
    against all cells of the sweep (Holm).
    """

    difference: Estimate
    p: float | None
    p_adjusted: float | None = None

    @property
    def significant(self) -> bool | None:
        """Whether it is called a difference; None where there is no test."""
        return None if self.p_adjusted is None else self.p_adjusted < SIGNIFICANCE


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """`values` less `baseline`, both by seed; None where they share no seed."""
    shared = sorted(values.keys() & baseline.keys())
    differences = [values[seed] - baseline[seed] for seed in shared]
    found = estimate(differences)
    if found is None:
        return None
    # what varies by less than the last digits of a double does not vary
    if not found.margin or found.margin < _ROUNDING * abs(found.mean):
        return Difference(found, None)
    from scipy import stats

    return Difference(found, float(stats.ttest_1samp(differences, 0.0).pvalue))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """The p-values adjusted for how many they are, in their order.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    known = sorted((p, place) for place, p in enumerate(values) if p is not None)
    adjusted: list[float | None] = [None] * len(values)
    least = 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        adjusted[place] = least
    return adjusted


@dataclass(frozen=True)
class Cell:
    """One point of the grid: its settings by dotted key, its runs by seed. `refused`: why it has
    none. `joules`: by seed, what all devices take; empty where a power is not known. `failed`: how
    many of its runs did not end."""

    label: str
    settings: Mapping[str, str]
    runs: Mapping[int, ComparedRun]
    refused: RefusedRun | None = None
    joules: Mapping[int, float] | None = None
    failed: int = 0

    @property
    def seeds(self) -> int:
        """Of its runs, those that failed too."""
        return len(self.runs) + self.failed


@dataclass(frozen=True)
class Quantity:
    """Something that runs have: `name`, and the unit that its values are written in."""

    key: str
    name: str
    scale: Scale

    @property
    def label(self) -> str:
        """`delay [s]`."""
        return f"{self.name} [{self.scale.unit}]" if self.scale.unit else self.name

    def texts(self, values: Sequence[float]) -> list[str]:
        """In that unit."""
        return column(values, self.scale.unit_size)


@dataclass(frozen=True)
class Front:
    """Cells that no other one beats in both, by what they cost: the cheapest first."""

    cost: Quantity
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Sweep:
    """All cells, their runs as one comparison, and the cell that others are held against."""

    cells: tuple[Cell, ...]
    comparison: Comparison
    baseline: Cell

    @property
    def measure(self) -> str:
        """What all runs are scored by: `accuracy` or `perplexity`."""
        return self.comparison.measure

    @cached_property
    def quantities(self) -> tuple[Quantity, ...]:
        """The score after the last round and of the best, what all rounds took, and what the
        target took."""
        measure = self.measure
        score = Scale("%", 0.01) if measure == "accuracy" else Scale("", 1.0)
        found = [
            Quantity(f"{measure}_final", f"{measure}, last round", score),
            Quantity(f"{measure}_best", f"{measure}, best round", score),
            Quantity("delay_s", "delay", time_scale(self._largest("delay_s"))),
            Quantity("sent_bytes", "bytes up and down", byte_scale(self._largest("sent_bytes"))),
            Quantity("devices_j", "energy of devices", Scale("J", 1.0)),
            Quantity("target_s", "delay to target", time_scale(self._largest("target_s"))),
            Quantity("target_bytes", "bytes to target", byte_scale(self._largest("target_bytes"))),
        ]
        known = any(cell.joules for cell in self.cells)
        return tuple(one for one in found if known or one.key != "devices_j")

    def quantity(self, key: str) -> Quantity:
        """The one of that key."""
        return next(one for one in self.quantities if one.key == key)

    def values(self, cell: Cell, quantity: Quantity) -> dict[int, float]:
        """By seed, of the runs that have one."""
        found = {seed: self._value(cell, seed, quantity.key) for seed in cell.runs}
        return {seed: value for seed, value in found.items() if value is not None}

    def estimate(self, cell: Cell, quantity: Quantity) -> Estimate | None:
        """Over the cell's seeds; None where a run has no such value, such as a target that it does
        not reach: a mean of the others would be too good."""
        values = self.values(cell, quantity)
        return estimate(list(values.values())) if len(values) == cell.seeds else None

    def differences(self, quantity: Quantity) -> dict[str, Difference]:
        """Of every cell but the baseline that shares seeds with it, by label."""
        base = self.values(self.baseline, quantity)
        found = {
            cell.label: own
            for cell in self.cells
            if cell is not self.baseline
            and (own := paired(self.values(cell, quantity), base)) is not None
        }
        adjusted = holm([own.p for own in found.values()])
        return {
            label: Difference(own.difference, own.p, p)
            for (label, own), p in zip(found.items(), adjusted, strict=True)
        }

    @cached_property
    def fronts(self) -> tuple[Front, ...]:
        """Score after the last round against delay, bytes and, where it is known, energy."""
        keys = ("delay_s", "sent_bytes", "devices_j")
        costs = [one for one in self.quantities if one.key in keys]
        return tuple(Front(cost, self._front(cost)) for cost in costs)

    def _front(self, cost: Quantity) -> tuple[Cell, ...]:
        score = self.quantity(f"{self.measure}_final")
        sign = 1.0 if self.measure == "accuracy" else -1.0
        points = []
        for place, cell in enumerate(self.cells):
            good, paid = self.estimate(cell, score), self.estimate(cell, cost)
            if good is not None and paid is not None:
                points.append((paid.mean, -sign * good.mean, place))
        front, best = list[Cell](), math.inf
        for _, bad, place in sorted(points):
            if bad < best:
                front.append(self.cells[place])
                best = bad
        return tuple(front)

    def _value(self, cell: Cell, seed: int, key: str) -> float | None:
        run = cell.runs[seed]
        summary, reached = run.record.summary, self.comparison.reached(run)
        match key:
            case "delay_s":
                return summary.delay_s
            case "sent_bytes":
                return float(summary.uplink_bytes + summary.downlink_bytes)
            case "devices_j":
                return (cell.joules or {}).get(seed)
            case "target_s":
                return None if reached is None else reached.time_s
            case "target_bytes":
                return None if reached is None else float(reached.sent_bytes)
            case _ if key.endswith("_final"):
                return summary.score_final.value
            case _:
                return None if run.best is None else run.best.value

    def _largest(self, key: str) -> float:
        known = (self._value(cell, seed, key) for cell in self.cells for seed in cell.runs)
        return max((value for value in known if value is not None), default=0.0)


def by_seed(comparison: Comparison) -> Sweep | None:
    """The runs of a comparison as cells, where any differ by their seed alone; the first cell is
    the baseline. None: no two do, or two have the same seed too.

    Raises RunError: a run's configuration is not YAML.
    """
    alike: dict[tuple[tuple[str, str], ...], dict[int, ComparedRun]] = {}
    for run in comparison.runs:
        settings = {key: value for key, value in settings_of(run).items() if key != "seed"}
        runs = alike.setdefault(tuple(sorted(settings.items())), {})
        if run.record.summary.seed in runs:
            return None
        runs[run.record.summary.seed] = run
    if all(len(runs) == 1 for runs in alike.values()):
        return None
    cells = [Cell(_named(list(runs.values())), {}, runs) for runs in alike.values()]
    cells += [Cell(one.label, {}, {}, one) for one in comparison.refused]
    return Sweep(tuple(cells), comparison, cells[0])


def _named(runs: Sequence[ComparedRun]) -> str:
    more = f" and {counted(len(runs) - 1, 'more seed')}" if len(runs) > 1 else ""
    return f"{runs[0].label}{more}"


# As tables: of cells, of differences, and one row a run.


@dataclass(frozen=True)
class TextTable:
    """Headings and rows of text."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def cell_table(sweep: Sweep, quantities: Sequence[Quantity] | None = None) -> TextTable:
    """A row a cell: means of these quantities (all of them) with their intervals."""
    shown = sweep.quantities if quantities is None else quantities
    rows = []
    for cell in sweep.cells:
        if cell.refused is not None:
            rows.append((cell.label, "-", *["does not fit"] * len(shown)))
            continue
        texts = [_estimated(sweep, cell, one) for one in shown]
        rows.append((cell.label, str(cell.seeds), *texts))
    return TextTable(("settings", "seeds", *(one.label for one in shown)), tuple(rows))


def difference_table(sweep: Sweep, quantity: Quantity) -> TextTable:
    """A row a cell: its difference to the baseline, seed by seed, and the test of it."""
    rows = []
    for label, own in sweep.differences(quantity).items():
        verdict = {None: "no test", True: "yes", False: "no"}[own.significant]
        rows.append(
            (
                label,
                str(own.difference.count),
                _with_margin(quantity, own.difference, signed=True),
                "-" if own.p is None else f"{own.p:.3f}",
                "-" if own.p_adjusted is None else f"{own.p_adjusted:.3f}",
                verdict,
            )
        )
    headings = ("settings", "seeds", quantity.label, "p", "p (Holm)", "differs")
    return TextTable(headings, tuple(rows))


def _estimated(sweep: Sweep, cell: Cell, quantity: Quantity) -> str:
    known = len(sweep.values(cell, quantity))
    if cell.failed:
        return f"{cell.failed} of {cell.seeds} failed"
    if known < cell.seeds:
        return f"{known} of {cell.seeds} reached" if known else NOT_REACHED
    found = sweep.estimate(cell, quantity)
    return "no number" if found is None else _with_margin(quantity, found)


def _with_margin(quantity: Quantity, found: Estimate, *, signed: bool = False) -> str:
    """`81.2 ± 0.9`."""
    values = [found.mean] if found.margin is None else [found.mean, found.margin]
    mean, *margin = quantity.texts(values)
    sign = "+" if signed and found.mean > 0 else ""
    return " ± ".join([f"{sign}{mean}", *margin])


def run_rows(sweep: Sweep) -> list[Row]:
    """One row a run: its cell, each setting of the grid, its seed, and all that a comparison has
    of it."""
    keys = list(dict.fromkeys(key for cell in sweep.cells for key in cell.settings))
    by_label = {str(row["run"]): row for row in comparison_rows(sweep.comparison)}
    rows: list[Row] = []
    for cell in sweep.cells:
        settings: Row = {key: cell.settings.get(key) for key in keys}
        labels: dict[int | None, str] = {seed: run.label for seed, run in cell.runs.items()}
        if cell.refused is not None:
            labels = {None: cell.label}
        for seed, label in labels.items():
            row = {name: value for name, value in by_label[label].items() if name != "run"}
            joules = None if seed is None else (cell.joules or {}).get(seed)
            rows.append({"cell": cell.label, **settings, "seed": seed, **row, "devices_j": joules})
    return rows


def round_rows(sweep: Sweep) -> list[Row]:
    """One row a run and round, the evaluation before training as round 0: the curves."""
    rows: list[Row] = []
    for cell in sweep.cells:
        for seed, run in cell.runs.items():
            sent = 0
            for record in run.record.rounds:
                trained = record if isinstance(record, TrainedRound) else None
                if trained is not None:
                    sent += trained.uplink_bytes + trained.downlink_bytes
                score = record.score
                rows.append(
                    {
                        "cell": cell.label,
                        "seed": seed,
                        "round": record.round,
                        sweep.measure: None if score is None else score.value,
                        "eval_loss": record.eval_loss,
                        "train_loss": None if trained is None else trained.train_loss,
                        "time_s": record.virtual_time_s,
                        "sent_bytes": sent,
                    }
                )
    return rows


def rows_csv(rows: Sequence[Row]) -> str:
    """As a file; what is not there is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def sweep_title(sweep: Sweep) -> str:
    """`12 runs of 4 settings: dinov2-small on fashion-mnist`."""
    summaries = [run.record.summary for run in sweep.comparison.runs]
    models = ", ".join(dict.fromkeys(summary.model for summary in summaries))
    data = ", ".join(dict.fromkeys(summary.data for summary in summaries))
    runs = counted(len(summaries), "run")
    return f"{runs} of {counted(len(sweep.cells), 'setting')}: {models} on {data}"
