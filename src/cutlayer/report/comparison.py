"""Runs side by side: what each came to, and what it took to reach a score that all are held to.

Knows the records of runs, not their files and not how they are shown.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import yaml

from cutlayer.errors import ConfigError, RunError
from cutlayer.report.run_reader import RunRecord
from cutlayer.report.wording import counted, score_text
from cutlayer.train.records import RoundRecord, Score, TrainedRound
from cutlayer.units import format_bytes


@dataclass(frozen=True)
class Point:
    """One evaluation, and all that had been spent by then: virtual seconds, bytes both ways."""

    round: int
    time_s: float
    sent_bytes: int
    score: Score


@dataclass(frozen=True)
class ComparedRun:
    """A run that ended, under the name by which the comparison calls it."""

    label: str
    record: RunRecord
    place: str

    @property
    def points(self) -> tuple[Point, ...]:
        """Every evaluation, the one before training first."""
        sent = accumulate(_sent_bytes(record) for record in self.record.rounds)
        return tuple(
            Point(record.round, record.virtual_time_s, size, record.score)
            for record, size in zip(self.record.rounds, sent, strict=True)
        )

    @property
    def best(self) -> Score | None:
        """The best score after a round of training; None if none was a number."""
        scores = [record.score for record in self.record.trained]
        known = [score for score in scores if math.isfinite(score.value)]
        return max(known, key=_goodness) if known else None

    @property
    def delay_per_round_s(self) -> float | None:
        """Virtual seconds of a round, the mean; None without rounds."""
        summary = self.record.summary
        return summary.delay_s / summary.rounds if summary.rounds else None


@dataclass(frozen=True)
class RefusedRun:
    """A run that no device could hold: what one would need, by kind, and what it has."""

    label: str
    config_text: str
    memory_bytes: Mapping[str, int]
    limit_bytes: int

    @property
    def need_bytes(self) -> int:
        """All kinds together."""
        return sum(self.memory_bytes.values())

    @property
    def reason(self) -> str:
        """`does not fit: needs 155 MiB of 72.0 MiB`."""
        need, limit = format_bytes(self.need_bytes), format_bytes(self.limit_bytes)
        return f"does not fit: needs {need} of {limit}"


Entry = ComparedRun | RefusedRun


@dataclass(frozen=True)
class Comparison:
    """Runs in the order they were named, and the score that counts as reached (None: no run has
    one that is a number)."""

    entries: tuple[Entry, ...]
    target: Score | None

    @property
    def runs(self) -> tuple[ComparedRun, ...]:
        """Those that ended."""
        return tuple(entry for entry in self.entries if isinstance(entry, ComparedRun))

    @property
    def refused(self) -> tuple[RefusedRun, ...]:
        """Those that did not fit."""
        return tuple(entry for entry in self.entries if isinstance(entry, RefusedRun))

    @property
    def measure(self) -> str:
        """What all runs are scored by: `accuracy` or `perplexity`."""
        return self.runs[0].record.summary.score_final.measure

    @property
    def yardstick(self) -> ComparedRun | None:
        """The run that ratios are against: the first that reached the target."""
        return next((run for run in self.runs if self.reached(run)), None)

    def reached(self, run: ComparedRun) -> Point | None:
        """The run's first evaluation after training that reached the target, nothing
        interpolated."""
        goal, trained = self.target, (point for point in run.points if point.round)
        return next((p for p in trained if goal and _reaches(p.score, goal)), None)


def compare(entries: Sequence[Entry], target: float | None = None) -> Comparison:
    """The comparison of some runs; `target` None: the worst of their best scores, so that all
    reach it.

    Raises ConfigError: no run ended, tasks or measures differ, or the target cannot be a score.
    """
    runs = [entry for entry in entries if isinstance(entry, ComparedRun)]
    if not runs:
        raise ConfigError(f"nothing to compare: {_reasons(entries)}")
    check_tasks([(run.label, run.record.summary.task) for run in runs])
    measures = [(run.label, run.record.summary.score_final.measure) for run in runs]
    _check_alike("measures", measures)
    measure = runs[0].record.summary.score_final.measure
    if target is None:
        best = [run.best for run in runs if run.best is not None]
        return Comparison(tuple(entries), min(best, key=_goodness) if best else None)
    check_target(runs[0].record.summary.task, target)
    return Comparison(tuple(entries), Score(measure, target))


def comparison_title(comparison: Comparison) -> str:
    """`3 runs compared: dinov2-small on fashion-mnist`."""
    summaries = [run.record.summary for run in comparison.runs]
    models = ", ".join(dict.fromkeys(summary.model for summary in summaries))
    data = ", ".join(dict.fromkeys(summary.data for summary in summaries))
    return f"{counted(len(comparison.entries), 'run')} compared: {models} on {data}"


def target_text(comparison: Comparison) -> str:
    """What counts as reached: `accuracy 75.0 % or better`."""
    if comparison.target is None:
        return f"no {comparison.measure} is a number"
    return f"{comparison.measure} {score_text(comparison.target)} or better"


def check_tasks(tasks: Sequence[tuple[str, str]]) -> None:
    """Raises ConfigError where runs (label, task) have different tasks."""
    _check_alike("tasks", tasks)


def check_target(task: str, target: float) -> None:
    """Raises ConfigError for a target that no score of that task can be."""
    if not (math.isfinite(target) and target > 0):
        raise ConfigError(f"--target {target:g}: give a number above 0")
    if task != "causal-lm" and target > 1:
        raise ConfigError(
            f"--target {target:g}: accuracy is a fraction; for {target:g} % give {target / 100:g}"
        )


def ratio(value: float | None, first: float | None) -> float | None:
    """`value` against another run's; None where one is not there, or the other is 0."""
    return value / first if value is not None and first else None


def _check_alike(what: str, named: Sequence[tuple[str, str]]) -> None:
    label, first = named[0]
    for other_label, other in named[1:]:
        if other != first:
            raise ConfigError(
                f"cannot compare runs of different {what}: {label} has {first},"
                f" {other_label} {other}; compare them apart"
            )


def _reasons(entries: Sequence[Entry]) -> str:
    refused = [entry for entry in entries if isinstance(entry, RefusedRun)]
    return "; ".join(f"{entry.label} {entry.reason}" for entry in refused) or "no run"


def _goodness(score: Score) -> float:
    return score.value if score.measure == "accuracy" else -score.value


def _reaches(score: Score, target: Score) -> bool:
    # a comparison with NaN is false: a diverged evaluation reaches nothing
    return _goodness(score) >= _goodness(target)


def _sent_bytes(record: RoundRecord) -> int:
    return record.uplink_bytes + record.downlink_bytes if isinstance(record, TrainedRound) else 0


# Which settings differ between the configurations of compared runs. Knows YAML, no schema.


@dataclass(frozen=True)
class Difference:
    """One dotted key and its value in each run, as YAML; `-` where a run's file has no such key."""

    key: str
    values: tuple[str, ...]


def differences(entries: Sequence[Entry]) -> tuple[Difference, ...]:
    """The keys whose values are not the same everywhere, in the order of the files.

    Raises RunError: a configuration is not YAML.
    """
    settings = [_settings(entry) for entry in entries]
    keys = dict.fromkeys(key for one in settings for key in one)
    rows = [Difference(key, tuple(one.get(key, "-") for one in settings)) for key in keys]
    return tuple(row for row in rows if len(set(row.values)) > 1)


def _settings(entry: Entry) -> Mapping[str, str]:
    text = entry.record.config_text if isinstance(entry, ComparedRun) else entry.config_text
    try:
        return dict(_flat(yaml.safe_load(text) or {}, ""))
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"the configuration of {entry.label} is not YAML: {reason}") from error


def _flat(value: object, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, _as_yaml(value)


def _as_yaml(value: object) -> str:
    # a line of its own would end with YAML's mark of a document's end
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()
