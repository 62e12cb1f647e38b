"""Runs as columns of numbers and of text, the same on the console, page and CSV."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cutlayer.report.comparison import (
    ComparedRun,
    Comparison,
    Entry,
    Point,
    RefusedRun,
    ratio,
)
from cutlayer.report.vocabulary import MEMORY_KINDS, PAYLOADS, PHASES, Word, phases_in
from cutlayer.report.wording import Scale, byte_scale, column, decimals_for, score_text, time_scale
from cutlayer.train.records import RoundRecord, Score, Summary, TrainedRound
from cutlayer.units import format_bytes, format_seconds

# What the codec saves on activations and on gradients, apart from adapters and the model.
#
# Knows a run's rounds, not how they are shown.


_PLURALS = {"activation": "activations", "gradient": "gradients"}


@dataclass(frozen=True)
class Saving:
    """Bytes of one payload over the run, and of the same values as float32."""

    name: str
    sent_bytes: int
    uncompressed_bytes: int


def savings(works: Sequence[TrainedRound]) -> list[Saving]:
    """Of the payloads that pass the codec; none where a scheme sends neither."""
    found = []
    for payload, name in _PLURALS.items():
        sent = sum(work.bytes_by_payload.get(payload, 0) for work in works)
        plain = sent + sum(_saved(work, payload) for work in works)
        if sent:
            found.append(Saving(name, sent, plain))
    return found


def _saved(work: TrainedRound, payload: str) -> int:
    """Each way one payload is compressed, and what else goes there is not."""
    if payload == "activation":
        return work.uncompressed_uplink_bytes - work.uplink_bytes
    return work.uncompressed_downlink_bytes - work.downlink_bytes


# A run by round as columns of numbers and of text, the same for the terminal and for the page.
#
# Knows records and units, no layout.


@dataclass(frozen=True)
class RoundColumn:
    """One quantity of every round: exact `values` (None: not in that round) and their `texts`.

    `short` is a heading for narrow tables; texts are in `unit`, values as in the record.
    """

    label: str
    short: str
    unit: str
    values: tuple[float | None, ...]
    texts: tuple[str, ...]


def round_columns(records: Sequence[RoundRecord]) -> dict[str, RoundColumn]:
    """Every column by its name: `round`, `score`, `uplink`, `delay`, each phase that took any
    time, and others.

    A column has one unit and as many decimals as its largest value needs; delay and phases share
    their unit, so that a row adds up.
    """
    works = [record if isinstance(record, TrainedRound) else None for record in records]
    delays = _of(works, lambda work: work.delay_s)
    scale = time_scale(_largest(delays))
    return {
        "round": _round_column(records),
        "score": _score_column(records),
        "train_loss": _scaled("train loss", "train loss", _of(works, _train_loss)),
        "eval_loss": _scaled("eval loss", "eval loss", [record.eval_loss for record in records]),
        "uplink": _bytes("up", _of(works, lambda work: work.uplink_bytes)),
        "downlink": _bytes("down", _of(works, lambda work: work.downlink_bytes)),
        "delay": _scaled("delay", "delay", delays, scale),
        **{
            phase: _scaled(word.label, word.short, _of_phase(works, phase), scale)
            for phase, word in phases_in(
                work.delay_by_phase_s for work in works if work is not None
            ).items()
        },
        "virtual_time": _seconds("time so far", _of(works, lambda work: work.virtual_time_s)),
        "wall": _seconds("wall-clock", _of(works, lambda work: work.wall_s)),
    }


def _score_column(records: Sequence[RoundRecord]) -> RoundColumn:
    values = [record.score.value for record in records]
    if records[0].score.measure == "perplexity":
        return _scaled("perplexity", "perp- lexity", values)
    texts = tuple(f"{100 * value:.1f}" for value in values)
    return RoundColumn("accuracy", "acc.", "%", tuple(values), texts)


def _round_column(records: Sequence[RoundRecord]) -> RoundColumn:
    numbers = tuple(record.round for record in records)
    return RoundColumn("round", "round", "", numbers, tuple(str(number) for number in numbers))


def _bytes(label: str, values: Sequence[float | None]) -> RoundColumn:
    return _scaled(label, label, values, byte_scale(_largest(values)))


def _seconds(label: str, values: Sequence[float | None]) -> RoundColumn:
    return _scaled(label, label, values, time_scale(_largest(values)))


def _scaled(
    label: str, short: str, values: Sequence[float | None], scale: Scale | None = None
) -> RoundColumn:
    scale = scale or Scale("", 1.0)
    texts = tuple(column(values, scale.unit_size))
    return RoundColumn(label, short, scale.unit, tuple(values), texts)


def _of(
    works: Sequence[TrainedRound | None], value: Callable[[TrainedRound], float]
) -> list[float | None]:
    return [value(work) if work else None for work in works]


def _of_phase(works: Sequence[TrainedRound | None], phase: str) -> list[float | None]:
    return _of(works, lambda work: work.delay_by_phase_s.get(phase, 0.0))


def _train_loss(work: TrainedRound) -> float:
    return work.train_loss


def _largest(values: Sequence[float | None]) -> float:
    return max((value for value in values if value is not None), default=0.0)


# Compared runs as columns of exact numbers and of text: the same on the console, page and CSV.
#
# Knows comparisons and units, no layout. A run that did not fit has nothing but its memory.


NOT_REACHED = "not reached"


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


def target_columns(comparison: Comparison) -> list[Column]:
    """What each run took to reach the target, and that against `comparison.yardstick`."""
    points = [_reached(comparison, entry) for entry in comparison.entries]
    yardstick = comparison.yardstick
    first = comparison.reached(yardstick) if yardstick else None
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
        _column("target_s_ratio", "relative", times, _times),
        _column("target_bytes", "bytes", sizes, format_bytes),
        _column("target_bytes_ratio", "relative", volumes, _times),
    ]


def csv_text(comparison: Comparison) -> str:
    """One row for each run, named: all columns, and seconds, bytes and memory by kind."""
    columns = [*result_columns(comparison), *_uncompressed(comparison.entries)]
    columns += [*target_columns(comparison), *_by_kind(comparison.entries)]
    target = "" if comparison.target is None else comparison.target.value
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "fits", f"target_{comparison.measure}", *(one.key for one in columns)])
    for index, entry in enumerate(comparison.entries):
        fits = "yes" if isinstance(entry, ComparedRun) else "no"
        values = [one.values[index] for one in columns]
        writer.writerow([entry.label, fits, target, *("" if v is None else v for v in values)])
    return text.getvalue()


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
