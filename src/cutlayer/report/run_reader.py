"""Reads a run directory into a `RunRecord`, strictly, and checks that its files agree.

Knows the files' names; what they hold is in `records`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cutlayer.errors import RunError
from cutlayer.rounds.result import TimelineEvent
from cutlayer.train.records import (
    Partition,
    RoundRecord,
    Summary,
    TraceLine,
    TrainedRound,
    lines_of_round,
    parse,
    parse_round,
)

# sums of a few thousand doubles written with 17 digits: rounding stays far below this
_SUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class RunRecord:
    """A run directory as read; of the trace only the last recorded round is kept."""

    config_text: str
    rounds: tuple[RoundRecord, ...]
    partition: Partition
    last_round_steps: tuple[TimelineEvent, ...]
    summary: Summary

    @property
    def trained(self) -> tuple[TrainedRound, ...]:
        """All rounds but the evaluation before training."""
        return trained(self.rounds)


def trained(rounds: Sequence[RoundRecord]) -> tuple[TrainedRound, ...]:
    """Those of the rounds that trained."""
    return tuple(record for record in rounds if isinstance(record, TrainedRound))


def read_run(directory: Path) -> RunRecord:
    """The run that the directory holds.

    Raises:
        RunError: a file is missing or cannot be read, a line is broken, or two files disagree.
    """
    if not directory.is_dir():
        raise RunError(f"{directory}: no such run directory")
    summary = read_summary(directory / "summary.json")
    rounds = read_rounds(directory / "rounds.jsonl")
    partition = directory / "partition.json"
    run = RunRecord(
        config_text=_text_of(directory / "config.yaml"),
        rounds=rounds,
        partition=parse(Partition, str(partition), _text_of(partition)),
        last_round_steps=tuple(read_steps(directory / "trace.jsonl", rounds[-1].round)),
        summary=summary,
    )
    _check_agreement(directory, run)
    return run


def read_summary(path: Path) -> Summary:
    """The values of a `summary.json`.

    Raises:
        RunError: the file is missing or broken.
    """
    summary = parse(Summary, str(path), _text_of(path))
    _check_sum(str(path), "delay_by_phase_s", summary.delay_by_phase_s, summary.delay_s)
    kinds = summary.device_memory_bytes
    _check_sum(str(path), "device_memory_bytes", kinds, summary.device_peak_bytes)
    return summary


def read_rounds(path: Path) -> tuple[RoundRecord, ...]:
    """The records of a `rounds.jsonl`, at least the evaluation before training.

    Raises:
        RunError: the file is missing, empty or broken, or its rounds do not count 0, 1, 2, ...
    """
    records = tuple(_rounds(path))
    if not records:
        raise RunError(f"{path}: empty, not even the evaluation before training is there")
    if len({record.score.measure for record in records}) > 1:
        raise RunError(f"{path}: has accuracy in some rounds and perplexity in others")
    return records


def _rounds(path: Path) -> Iterator[RoundRecord]:
    with _readable(path), path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            where = f"{path} line {number + 1}"
            record = parse_round(where, line, number)
            if isinstance(record, TrainedRound):
                _check_delays(where, record)
            yield record


def read_steps(path: Path, number: int) -> Iterator[TimelineEvent]:
    """The steps of one round in a `trace.jsonl`, one by one; the other rounds are not read.

    Raises:
        RunError: the file is missing or a line of the round is broken.
    """
    with _readable(path):
        for place, line in enumerate(lines_of_round(path, number), start=1):
            yield parse(TraceLine, f"{path} round {number} line {place}", line).event


def _check_delays(where: str, record: TrainedRound) -> None:
    _check_sum(where, "delay_by_phase_s", record.delay_by_phase_s, record.delay_s)
    pairs = zip(record.device_delay_s, record.device_delay_by_phase_s, strict=True)
    for device, (delay, by_phase) in enumerate(pairs):
        _check_sum(where, f"device_delay_by_phase_s[{device}]", by_phase, delay)


def _check_agreement(directory: Path, run: RunRecord) -> None:
    summary, last = run.summary, run.rounds[-1].round
    if summary.rounds != last:
        raise RunError(
            f"{directory}: summary.json counts {summary.rounds} rounds, rounds.jsonl {last}; "
            "the run was interrupted or is still going on: resume it or let it end"
        )
    sizes = [len(summary.samples_per_device), len(run.partition.counts)]
    sizes += [len(record.device_delay_s) for record in run.trained]
    if any(size != summary.devices for size in sizes):
        raise RunError(
            f"{directory}: summary.json has {summary.devices} devices, but samples_per_device, "
            f"partition.json and the rounds list {sorted(set(sizes))}"
        )
    for name in ("delay_s", "uplink_bytes", "downlink_bytes"):
        told, summed = getattr(summary, name), sum(getattr(each, name) for each in run.trained)
        if not _close(told, summed):
            raise RunError(
                f"{directory}: {name} is {told} in summary.json, the rounds add up to {summed}"
            )


def _check_sum(where: str, name: str, parts: Mapping[str, float], total: float) -> None:
    summed = sum(parts.values())
    if not _close(summed, total):
        raise RunError(f"{where}: {name} adds up to {summed}, but the total is {total}")


def _close(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=_SUM_TOLERANCE, abs_tol=1e-9)


def _text_of(path: Path) -> str:
    with _readable(path):
        return path.read_text(encoding="utf-8")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as problem:
        raise RunError(f"{path}: missing; is this the directory of a finished run?") from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise RunError(f"{path}: cannot be read ({problem})") from problem
