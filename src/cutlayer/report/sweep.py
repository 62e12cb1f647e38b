"""A sweep: runs of a grid of settings over seeds; means with confidence intervals, differences to a
baseline seed by seed, Pareto fronts, and one tidy table of it all.

A cell is one point of the grid; its runs differ by seed alone. Knows the records of runs, not their
files and no layout.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from cutlayer.errors import ConfigError, quoted
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
_SCHEME_KEYS = ("scheme", "scheme.name")

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
    alike = list(_alike([(run, settings_of(run)) for run in comparison.runs]).values())
    if all(len(runs) == 1 for runs in alike) or any(_doubled(runs) for runs in alike):
        return None
    cells = [Cell(_named(runs), {}, _of_seeds(runs)) for runs in alike]
    cells += [Cell(one.label, {}, {}, one) for one in comparison.refused]
    return Sweep(tuple(cells), comparison, cells[0])


def grouped(
    comparison: Comparison,
    settings: Sequence[Mapping[str, str]],
    baseline: str | None = None,
) -> Sweep:
    """The runs of a comparison as cells of those that differ by their seed alone, called by the
    settings in which cells differ.

    `settings`: of each run, in their order, what it reads, by dotted key. `baseline`: the label of
    a cell, None: the first.

    Raises ConfigError for two runs of the same settings and seed, and for a baseline that no cell
    is called.
    """
    alike = _alike(list(zip(comparison.runs, settings, strict=True)))
    for runs in alike.values():
        if doubled := _doubled(runs):
            raise ConfigError(
                f"{' and '.join(doubled)} have the same settings and the same seed: leave out one"
            )
    differ = differing(settings)
    told = [{key: own[key] for key in differ if key in own} for own in map(dict, alike)]
    labels = apart(
        [
            settings_label(one) or _named(runs)
            for one, runs in zip(told, alike.values(), strict=True)
        ]
    )
    cells = [
        Cell(label, own, _of_seeds(runs))
        for label, own, runs in zip(labels, told, alike.values(), strict=True)
    ]
    return Sweep(tuple(cells), comparison, cells[baseline_number(labels, baseline)])


def _alike(
    runs: Sequence[tuple[ComparedRun, Mapping[str, str]]],
) -> dict[tuple[tuple[str, str], ...], list[ComparedRun]]:
    """Runs by all of their settings but the seed."""
    found: dict[tuple[tuple[str, str], ...], list[ComparedRun]] = {}
    for run, settings in runs:
        others = sorted((key, value) for key, value in settings.items() if key != "seed")
        found.setdefault(tuple(others), []).append(run)
    return found


def _of_seeds(runs: Sequence[ComparedRun]) -> dict[int, ComparedRun]:
    return {run.record.summary.seed: run for run in runs}


def _doubled(runs: Sequence[ComparedRun]) -> list[str]:
    """The first two that have the same seed."""
    seen: dict[int, str] = {}
    for run in runs:
        seed = run.record.summary.seed
        if seed in seen:
            return [seen[seed], run.label]
        seen[seed] = run.label
    return []


def _named(runs: Sequence[ComparedRun]) -> str:
    more = f" and {counted(len(runs) - 1, 'more seed')}" if len(runs) > 1 else ""
    return f"{runs[0].label}{more}"


# What cells are called.


def differing(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys but the seed that have more than one value among the runs that have them, and those
    of sections that some runs leave out; the scheme first."""
    keys = dict.fromkeys(key for each in settings for key in each)
    sections = {key.rpartition(".")[0] for key in keys}
    differ = [
        key
        for key in keys
        if key != "seed"
        and (key in sections or len({each[key] for each in settings if key in each}) > 1)
    ]
    return sorted(differ, key=lambda key: key not in _SCHEME_KEYS)


def settings_label(settings: Mapping[str, str]) -> str:
    """`sft, codec.target_bits_up 0.3`."""
    words = [
        text if key in _SCHEME_KEYS else f"{key.removesuffix('.name')} {text}"
        for key, text in settings.items()
    ]
    return ", ".join(words)


def apart(labels: Sequence[str]) -> list[str]:
    """The labels, with a number where one comes again."""
    again = {label for label in labels if labels.count(label) > 1}
    return [f"{one} ({n})" if one in again else one for n, one in enumerate(labels, start=1)]


def baseline_number(labels: Sequence[str], label: str | None) -> int:
    """The number of the cell that others are held against: of that label, or the first. Raises
    ConfigError."""
    if label is None:
        return 0
    if label not in labels:
        raise ConfigError(
            f"no settings are called {quoted(label)}: give one of {'; '.join(labels)}",
            thing="baseline",
        )
    return labels.index(label)


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
    columns = _setting_columns(sweep)
    by_label = {str(row["run"]): row for row in comparison_rows(sweep.comparison)}
    rows: list[Row] = []
    for cell in sweep.cells:
        settings = columns[cell.label]
        labels: dict[int | None, str] = {seed: run.label for seed, run in cell.runs.items()}
        if cell.refused is not None:
            labels = {None: cell.label}
        for seed, label in labels.items():
            row = {name: value for name, value in by_label[label].items() if name != "run"}
            joules = None if seed is None else (cell.joules or {}).get(seed)
            rows.append({"cell": cell.label, **settings, "seed": seed, **row, "devices_j": joules})
    return rows


def setting_keys(sweep: Sweep) -> list[str]:
    """Of every cell's settings."""
    return list(dict.fromkeys(key for cell in sweep.cells for key in cell.settings))


def _setting_columns(sweep: Sweep) -> dict[str, Row]:
    """Of every cell, by its label, each setting, None where it has none; numbers where all that
    have one have a number."""
    columns = {key: [cell.settings.get(key) for cell in sweep.cells] for key in setting_keys(sweep)}
    typed = {key: _numbers(texts) or texts for key, texts in columns.items()}
    return {
        cell.label: {key: values[number] for key, values in typed.items()}
        for number, cell in enumerate(sweep.cells)
    }


def _numbers(texts: Sequence[str | None]) -> list[float | None] | None:
    try:
        return [None if text is None else _number(text) for text in texts]
    except ValueError:
        return None


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def round_rows(sweep: Sweep) -> list[Row]:
    """One row a run and round, the evaluation before training as round 0: the curves. Seconds and
    bytes are those since the run began."""
    settings = _setting_columns(sweep)
    rows: list[Row] = []
    for cell in sweep.cells:
        for seed, run in cell.runs.items():
            up = down = 0
            for record in run.record.rounds:
                trained = record if isinstance(record, TrainedRound) else None
                if trained is not None:
                    up += trained.uplink_bytes
                    down += trained.downlink_bytes
                score = record.score
                rows.append(
                    {
                        "cell": cell.label,
                        **settings[cell.label],
                        "seed": seed,
                        "round": record.round,
                        sweep.measure: None if score is None else score.value,
                        "eval_loss": record.eval_loss,
                        "train_loss": None if trained is None else trained.train_loss,
                        "time_s": record.virtual_time_s,
                        "uplink_bytes": up,
                        "downlink_bytes": down,
                        "sent_bytes": up + down,
                    }
                )
    return rows


def sweep_title(sweep: Sweep) -> str:
    """`12 runs of 4 settings: dinov2-small on fashion-mnist`."""
    summaries = [run.record.summary for run in sweep.comparison.runs]
    models = ", ".join(dict.fromkeys(summary.model for summary in summaries))
    data = ", ".join(dict.fromkeys(summary.data for summary in summaries))
    runs = counted(len(summaries), "run")
    return f"{runs} of {counted(len(sweep.cells), 'setting')}: {models} on {data}"
