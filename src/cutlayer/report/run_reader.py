"""Reads a run directory, strictly: as a whole whose files agree, or what is asked for.

Knows the files' names; what they hold is in `records`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

from cutlayer.config.read import read_written
from cutlayer.config.schema import Config
from cutlayer.errors import RunError, needing, reason
from cutlayer.files import path_of
from cutlayer.rounds.result import TimelineEvent
from cutlayer.training.records import (
    EvaluationFile,
    Partition,
    RoundRecord,
    Summary,
    TraceLine,
    TrainedRound,
    best_round,
    lines_of_round,
    parse,
    parse_round,
    read_details,
    scored,
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
    evaluation: EvaluationFile | None = None

    @property
    def trained(self) -> tuple[TrainedRound, ...]:
        """All rounds but the evaluation before training."""
        return trained(self.rounds)


def trained(rounds: Sequence[RoundRecord]) -> tuple[TrainedRound, ...]:
    """Those of the rounds that trained."""
    return tuple(record for record in rounds if isinstance(record, TrainedRound))


def read_record(directory: Path) -> RunRecord:
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
        evaluation=read_details(directory),
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
    if len({score.measure for _, score in scored(records)}) > 1:
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
    everyone = [record for record in run.trained if not record.participants]
    sizes += [len(record.device_delay_s) for record in everyone]
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
        raise RunError(f"{path}: cannot be read: {reason(problem)}") from problem


# A run as its user has it: each file is read when it is first asked for.


@final
@dataclass(frozen=True, eq=False)
class Trace(Mapping[int, tuple[TimelineEvent, ...]]):
    """The steps of each round, by its number: `trace[1]` reads those of the first.

    A `TimelineEvent` is one phase of one micro-batch of one device: `device`, `phase`, `start_s`
    and `end_s` in seconds since the round began, and the payload that it sends [bytes]. Raises
    KeyError for a round that is not there, RunError for a file that is missing or broken.
    """

    path: Path
    numbers: tuple[int, ...]

    def __getitem__(self, number: int) -> tuple[TimelineEvent, ...]:
        if number not in self.numbers:
            has = f"rounds 1 to {self.numbers[-1]}" if self.numbers else "no round yet"
            raise KeyError(f"no round {number}: the run has {has}")
        return tuple(read_steps(self.path, number))

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


@final
@dataclass(frozen=True)
class Run:
    """A run in its directory `path`, simulated or of a server; its files are read when they are
    first asked for, and then kept.

    Of a run that has not ended there are `config`, `rounds` and `trace`, as far as it is. Each
    attribute raises RunError for a file that is missing, broken or of another version.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", path_of("a run", self.path))

    @cached_property
    def config(self) -> Config:
        """The configuration with which it runs. Raises ConfigError if it is of another version."""
        return read_written(self.path / "config.yaml")

    @cached_property
    def rounds(self) -> tuple[RoundRecord, ...]:
        """A record for each round, the evaluation before training first: score, losses, bytes by
        payload, delays by device and phase [s]."""
        return read_rounds(self.path / "rounds.jsonl")

    @property
    def trace(self) -> Trace:
        """What each device did when, by round: `run.trace[1]`."""
        numbers = tuple(record.round for record in trained(self.rounds))
        return Trace(self.path / "trace.jsonl", numbers)

    @property
    def finished(self) -> bool:
        """Whether it has ended: there is a summary, of all rounds."""
        path = self.path / "summary.json"
        return path.is_file() and read_summary(path).rounds == self.rounds[-1].round

    @cached_property
    def summary(self) -> Summary:
        """The whole run in numbers: `accuracy_final`, `uplink_bytes`, `delay_s` and the like.
        Raises RunError if it has not ended."""
        self._check_finished()
        return read_summary(self.path / "summary.json")

    @cached_property
    def evaluation(self) -> EvaluationFile | None:
        """Of the last evaluated round and the best: macro-F1, each class, the confusion matrix,
        each device; None before the first. Raises RunError for a file that is broken."""
        return read_details(self.path)

    @property
    def adapter(self) -> Path:
        """The folder of the adapter of the last finished round in PEFT's format, for `load_adapter`
        or `peft`.

        Raises RunError if no round has finished, or the run trains all weights: those are in the
        folder `model` beside it, for `from_pretrained`.
        """
        return self._adapter("adapter", "model")

    @property
    def best_adapter(self) -> Path:
        """The same of the round with the best score, `best_round`. Raises as `adapter`."""
        return self._adapter("adapter-best", "model-best")

    @property
    def device_adapters(self) -> tuple[Path, ...]:
        """Where each device keeps its own adapter: their folders after the last finished round, in
        the devices' order, of those that took part in it; empty where adapters are merged."""
        folders = (self.path / "adapter").glob("device-*")
        return tuple(sorted(folders, key=lambda folder: int(folder.name.removeprefix("device-"))))

    @property
    def best_round(self) -> int | None:
        """The trained round with the best score, the first of equals; None before the first."""
        best = best_round(self.rounds)
        return None if best is None else best.round

    @property
    def report(self) -> Path:
        """The page about the run. Raises RunError if it has not ended."""
        self._check_finished()
        return self.path / "report.html"

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row for each round, without what each device did; seconds by phase and bytes by payload
        under dotted keys (`delay_by_phase_s.activation_up`)."""
        return [_row(record) for record in self.rounds]

    def to_pandas(self) -> Any:  # pandas has no types, and need not be there
        """`to_dicts` as a `pandas.DataFrame`. Raises ConfigError without pandas."""
        return frame_of(self.to_dicts())

    def _adapter(self, name: str, whole: str) -> Path:
        folder = self.path / name
        if not folder.is_dir() and (self.path / whole).is_dir():
            raise RunError(
                f"{self.path} has trained all weights, not an adapter: {self.path / whole} is a"
                " model for from_pretrained"
            )
        if self.device_adapters:
            raise RunError(
                f"{self.path} has an adapter for each device: {self.device_adapters[0]} is that of"
                " the first; `Run.device_adapters` are all"
            )
        if not (folder / "adapter_config.json").is_file():
            if self.rounds[-1].round == 0:
                raise RunError(f"{self.path} has no adapter yet: no round has finished")
            raise RunError(f"{folder}: missing; was it moved or deleted?")
        return folder

    def _check_finished(self) -> None:
        if not self.finished:
            raise RunError(
                f"{self.path} has not ended, it stands after round {self.rounds[-1].round}:"
                " wait for its end, or go on with it by `cutlayer.resume`"
            )


def read_run(path: Path | str) -> Run:
    """The run in a directory, ended or not.

    Raises RunError for what is no run directory.
    """
    path = path_of("a run", path)
    if path.is_file():
        raise RunError(f"{path} is a file: give the run's directory, perhaps {path.parent}")
    if not path.is_dir():
        raise RunError(f"{path}: no such run directory")
    if not (path / "config.yaml").is_file():
        raise RunError(f"{path} is not a run directory: it has no config.yaml")
    return Run(path)


def frame_of(rows: Sequence[Mapping[str, Any]]) -> Any:
    """The rows as a `pandas.DataFrame`. Raises ConfigError without pandas."""
    with needing("to_pandas", "pandas"):
        from pandas import DataFrame
    return DataFrame(rows)


def _row(record: RoundRecord) -> dict[str, Any]:
    if isinstance(record, TrainedRound):
        record = record.without_devices()
    row: dict[str, Any] = {}
    for key, value in record.written().items():
        if isinstance(value, Mapping):
            row |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            row[key] = value
    return row
