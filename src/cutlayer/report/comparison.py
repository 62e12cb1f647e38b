"""Runs side by side: what each came to, and what it took to reach a score that all are held to; as
values, and as columns of numbers and of text for console, page and CSV.

Knows the records of runs, not their files and no layout. A run that did not fit has nothing but its
memory.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import yaml

from cutlayer.errors import ConfigError, RunError
from cutlayer.report.run_reader import RunRecord
from cutlayer.report.wording import (
    MEMORY_KINDS,
    PAYLOADS,
    PHASES,
    Word,
    counted,
    decimals_for,
    score_text,
)
from cutlayer.training.records import RoundRecord, Score, Summary, TrainedRound, scored
from cutlayer.units import format_bytes, format_seconds

NOT_REACHED = "not reached"


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
            if record.score is not None
        )

    @property
    def best(self) -> Score | None:
        """The best score after a round of training; None if none was a number."""
        scores = [score for _, score in scored(self.record.trained)]
        known = [score for score in scores if math.isfinite(score.value)]
        return max(known, key=lambda score: score.goodness) if known else None

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
    def baseline(self) -> ComparedRun | None:
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
        return Comparison(
            tuple(entries), min(best, key=lambda score: score.goodness) if best else None
        )
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
        raise ConfigError(f"target {target:g}: give a number above 0", thing="target")
    if task != "causal-lm" and target > 1:
        raise ConfigError(
            f"target {target:g}: accuracy is a fraction; for {target:g} % give {target / 100:g}",
            thing="target",
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


def _reaches(score: Score, target: Score) -> bool:
    # a comparison with NaN is false: a diverged evaluation reaches nothing
    return score.goodness >= target.goodness


def _sent_bytes(record: RoundRecord) -> int:
    return record.uplink_bytes + record.downlink_bytes if isinstance(record, TrainedRound) else 0


@dataclass(frozen=True)
class Column:
    """One quantity of every entry. `key` carries the unit of `values` (None: there is none)."""

    key: str
    label: str
    values: tuple[float | None, ...]
    texts: tuple[str, ...]


def result_columns(comparison: Comparison) -> list[Column]:
    """What each run came to: scores, seconds, bytes, memory of a device against its limit."""
    entries, measure = comparison.entries, comparison.measure
    final = [_of_summary(entry, lambda one: one.score_final.value) for entry in entries]
    best = [
        entry.best.value if isinstance(entry, ComparedRun) and entry.best else None
        for entry in entries
    ]
    return [
        _column(f"{measure}_final", measure, final, lambda value: _score(comparison, value)),
        _column(f"{measure}_best", "best", best, lambda value: _score(comparison, value)),
        *_macro_f1(entries),
        _summed("rounds", "rounds", entries, lambda one: one.rounds, _whole),
        _summed("delay_s", "delay", entries, lambda one: one.delay_s, format_seconds),
        _column("delay_per_round_s", "a round", _per_round(entries), format_seconds),
        _summed("uplink_bytes", "up", entries, lambda one: one.uplink_bytes),
        _summed("downlink_bytes", "down", entries, lambda one: one.downlink_bytes),
        _column("device_peak_bytes", "memory", [_need(one) for one in entries], format_bytes),
        _column(
            "device_memory_limit_bytes", "limit", [limit_bytes(o) for o in entries], format_bytes
        ),
    ]


def _macro_f1(entries: Sequence[Entry]) -> list[Column]:
    """Where any run knows it."""
    values = [
        entry.record.summary.macro_f1_final if isinstance(entry, ComparedRun) else None
        for entry in entries
    ]
    if all(value is None for value in values):
        return []
    return [_column("macro_f1_final", "macro-F1", values, lambda value: f"{value:.3f}")]


def target_columns(comparison: Comparison) -> list[Column]:
    """What each run took to reach the target, and that against `comparison.baseline`."""
    points = [_reached(comparison, entry) for entry in comparison.entries]
    baseline = comparison.baseline
    first = comparison.reached(baseline) if baseline else None
    missed = [
        isinstance(entry, ComparedRun) and point is None
        for entry, point in zip(comparison.entries, points, strict=True)
    ]
    seconds = [point.time_s if point else None for point in points]
    sizes = [point.sent_bytes if point else None for point in points]
    times = [ratio(value, first.time_s if first else None) for value in seconds]
    volumes = [ratio(value, first.sent_bytes if first else None) for value in sizes]
    rounds = _column("target_round", "round", [p.round if p else None for p in points], _whole)
    texts = tuple(
        NOT_REACHED if miss else text for miss, text in zip(missed, rounds.texts, strict=True)
    )
    return [
        Column(rounds.key, rounds.label, rounds.values, texts),
        _column("target_s", "time", seconds, format_seconds),
        _column("target_s_ratio", "relative time", times, _times),
        _column("target_bytes", "bytes", sizes, format_bytes),
        _column("target_bytes_ratio", "relative bytes", volumes, _times),
    ]


def comparison_rows(comparison: Comparison) -> list[dict[str, str | float | None]]:
    """One row for each run, named: all columns, and seconds, bytes and memory by kind."""
    columns = [*result_columns(comparison), *_uncompressed(comparison.entries)]
    columns += [*target_columns(comparison), *_by_kind(comparison.entries)]
    target = None if comparison.target is None else comparison.target.value
    return [
        {
            "run": entry.label,
            "fits": "yes" if isinstance(entry, ComparedRun) else "no",
            f"target_{comparison.measure}": target,
            **{one.key: one.values[index] for one in columns},
        }
        for index, entry in enumerate(comparison.entries)
    ]


def phase_seconds(entry: Entry) -> dict[str, float]:
    """Seconds of a round by phase, mean of the rounds, along each round's slowest device."""
    if isinstance(entry, RefusedRun):
        return {}
    summary = entry.record.summary
    by_phase = summary.delay_by_phase_s.items()
    return {phase: seconds / max(summary.rounds, 1) for phase, seconds in by_phase}


def payload_bytes(entry: Entry) -> dict[str, float]:
    """Bytes of a round by payload, both ways, mean of the rounds."""
    if isinstance(entry, RefusedRun):
        return {}
    sent = [work.bytes_by_payload for work in entry.record.trained]
    names = dict.fromkeys(name for one in sent for name in one)
    return {name: sum(one.get(name, 0) for one in sent) / len(sent) for name in names}


def memory_bytes(entry: Entry) -> dict[str, float]:
    """Bytes of a device at its peak by kind; of a run that did not fit, what it would need."""
    if isinstance(entry, RefusedRun):
        held = entry.memory_bytes
    else:
        held = entry.record.summary.device_memory_bytes
    return {kind: float(size) for kind, size in held.items()}


def limit_bytes(entry: Entry) -> int | None:
    """What the device with least memory has; None: no limit was set."""
    if isinstance(entry, RefusedRun):
        return entry.limit_bytes
    return entry.record.summary.device_memory_limit_bytes


def shown_names(vocabulary: Mapping[str, Word], rows: Sequence[Mapping[str, float]]) -> list[str]:
    """The names that any row has above 0, in their usual order, unknown ones last."""
    used = {name for row in rows for name, value in row.items() if value > 0}
    return [name for name in vocabulary if name in used] + sorted(used - vocabulary.keys())


def _by_kind(entries: Sequence[Entry]) -> list[Column]:
    return [
        *_kinds("_s_per_round", PHASES, [phase_seconds(entry) for entry in entries]),
        *_kinds("_bytes_per_round", PAYLOADS, [payload_bytes(entry) for entry in entries]),
        *_kinds("_memory_bytes", MEMORY_KINDS, [memory_bytes(entry) for entry in entries]),
    ]


def _kinds(
    suffix: str, vocabulary: Mapping[str, Word], rows: Sequence[Mapping[str, float]]
) -> list[Column]:
    # the texts are for the columns that are shown: these are for the CSV file alone
    names = shown_names(vocabulary, rows)
    return [_column(name + suffix, name, [row.get(name) for row in rows], str) for name in names]


def _uncompressed(entries: Sequence[Entry]) -> list[Column]:
    return [
        _summed(
            "uncompressed_uplink_bytes",
            "uncompressed up",
            entries,
            lambda one: one.uncompressed_uplink_bytes,
        ),
        _summed(
            "uncompressed_downlink_bytes",
            "uncompressed down",
            entries,
            lambda one: one.uncompressed_downlink_bytes,
        ),
    ]


def _summed(
    key: str,
    label: str,
    entries: Sequence[Entry],
    value: Callable[[Summary], float],
    text: Callable[[float], str] = format_bytes,
) -> Column:
    return _column(key, label, [_of_summary(entry, value) for entry in entries], text)


def _column(
    key: str, label: str, values: Sequence[float | None], text: Callable[[float], str]
) -> Column:
    return Column(key, label, tuple(values), tuple("-" if v is None else text(v) for v in values))


def _of_summary(entry: Entry, value: Callable[[Summary], float]) -> float | None:
    return value(entry.record.summary) if isinstance(entry, ComparedRun) else None


def _per_round(entries: Sequence[Entry]) -> list[float | None]:
    return [one.delay_per_round_s if isinstance(one, ComparedRun) else None for one in entries]


def _need(entry: Entry) -> int:
    if isinstance(entry, RefusedRun):
        return entry.need_bytes
    return entry.record.summary.device_peak_bytes


def _reached(comparison: Comparison, entry: Entry) -> Point | None:
    return comparison.reached(entry) if isinstance(entry, ComparedRun) else None


def _score(comparison: Comparison, value: float) -> str:
    measure = comparison.runs[0].record.summary.score_final.measure
    return score_text(Score(measure, value))


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _times(value: float) -> str:
    return f"{value:.{decimals_for([value])}f}x"


def settings_of(entry: Entry) -> dict[str, str]:
    """A run's settings by dotted key, as YAML. Raises RunError: its configuration is not YAML."""
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
