"""Reads a run directory into a `RunRecord`, strictly, and checks that its files agree.

Knows the files' names and keys; keys it does not know are left alone.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from cutlayer.errors import RunError
from cutlayer.report.json_fields import JsonFields, parse_object
from cutlayer.report.run_record import (
    Partition,
    RoundRecord,
    RoundWork,
    RunRecord,
    Score,
    Summary,
    TraceStep,
    Traffic,
)
from cutlayer.report.vocabulary import PHASES
from cutlayer.train.round_log import lines_of_round

# sums of a few thousand doubles written with 17 digits: rounding stays far below this
_SUM_TOLERANCE = 1e-6


def read_run(directory: Path) -> RunRecord:
    """The run that the directory holds.

    Raises:
        RunError: a file is missing or cannot be read, a line is broken, or two files disagree.
    """
    if not directory.is_dir():
        raise RunError(f"{directory}: no such run directory")
    summary = read_summary(directory / "summary.json")
    rounds = read_rounds(directory / "rounds.jsonl")
    run = RunRecord(
        config_text=_text_of(directory / "config.yaml"),
        rounds=rounds,
        partition=read_partition(directory / "partition.json"),
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
    fields = parse_object(str(path), _text_of(path))
    limit = "device_memory_limit_bytes"
    summary = Summary(
        clock="measured"
        if fields.has("clock") and fields.text("clock") == "measured"
        else "virtual",
        scheme=fields.text("scheme"),
        model=fields.text("model"),
        model_source=fields.text("model_source"),
        data=fields.text("data"),
        data_source=fields.text("data_source"),
        task=fields.text("task"),
        rounds=fields.count("rounds"),
        score_first=_score(fields, "_first"),
        score_final=_score(fields, "_final"),
        traffic=_traffic(fields),
        delay_s=fields.number("delay_s"),
        delay_by_phase_s=_by_phase(fields.child("delay_by_phase_s")),
        device_peak_bytes=fields.count("device_peak_bytes"),
        device_memory_bytes=fields.child("device_memory_bytes").all_counts(),
        device_memory_limit_bytes=fields.count(limit) if fields.has(limit) else None,
        model_bytes=fields.count("model_bytes"),
        unsplit_peak_bytes=fields.count("unsplit_peak_bytes"),
        devices=fields.count("devices"),
        samples_per_device=fields.counts("samples_per_device"),
        wall_s=fields.number("wall_s"),
        seed=fields.count("seed"),
        config_sha256=fields.text("config_sha256"),
    )
    _check_sum(str(path), "delay_by_phase_s", summary.delay_by_phase_s, summary.delay_s)
    kinds = summary.device_memory_bytes
    _check_sum(str(path), "device_memory_bytes", kinds, summary.device_peak_bytes)
    return summary


def read_rounds(path: Path) -> tuple[RoundRecord, ...]:
    """The records of a `rounds.jsonl`, at least the evaluation before training.

    Raises:
        RunError: the file is missing, empty or broken, or its rounds do not count 0, 1, 2, ...
    """
    records = tuple(round_record(fields) for fields in _lines(path))
    if not records:
        raise RunError(f"{path}: empty, not even the evaluation before training is there")
    for expected, record in enumerate(records):
        if record.round != expected:
            raise RunError(f"{path} line {expected + 1}: is round {record.round}, not {expected}")
    if len({record.score.measure for record in records}) > 1:
        raise RunError(f"{path}: has accuracy in some rounds and perplexity in others")
    return records


def round_record(fields: JsonFields) -> RoundRecord:
    """One line of `rounds.jsonl`.

    Raises:
        RunError: a key is missing or a value cannot be.
    """
    number = fields.count("round")
    return RoundRecord(
        round=number,
        score=_score(fields, ""),
        eval_loss=fields.loss("eval_loss"),
        work=_round_work(fields) if number > 0 else None,
    )


def read_partition(path: Path) -> Partition:
    """The values of a `partition.json`.

    Raises:
        RunError: the file is missing or broken, or a row has not one count per class.
    """
    fields = parse_object(str(path), _text_of(path))
    names, counts = fields.texts("class_names"), fields.rows_of_counts("counts")
    for device, row in enumerate(counts):
        if len(row) != len(names):
            raise RunError(
                f"{path}: counts[{device}] has {len(row)} values for {len(names)} classes"
            )
    return Partition(names, counts)


def read_steps(path: Path, number: int) -> Iterator[TraceStep]:
    """The steps of one round in a `trace.jsonl`, one by one; the other rounds are not read.

    Raises:
        RunError: the file is missing or a line of the round is broken.
    """
    with _readable(path):
        for place, line in enumerate(lines_of_round(path, number), start=1):
            yield _step(parse_object(f"{path} round {number} line {place}", line))


def _step(fields: JsonFields) -> TraceStep:
    step = TraceStep(
        round=fields.count("round"),
        device=fields.count("device"),
        local_step=fields.count("local_step") if fields.has("local_step") else None,
        micro_batch=fields.count("micro_batch") if fields.has("micro_batch") else None,
        phase=fields.text("phase"),
        start_s=fields.number("start_s"),
        end_s=fields.number("end_s"),
        payload_bytes=fields.count("bytes"),
    )
    if step.phase not in PHASES:
        raise RunError(f"{fields.where}: phase is {step.phase!r}, not one of {_names(PHASES)}")
    if step.end_s < step.start_s:
        raise RunError(f"{fields.where}: end_s {step.end_s} is before start_s {step.start_s}")
    return step


def _round_work(fields: JsonFields) -> RoundWork:
    phases_of_devices = fields.children("device_delay_by_phase_s")
    work = RoundWork(
        train_loss=fields.loss("train_loss"),
        shares=fields.numbers("shares") if fields.has("shares") else (),
        delay_s=fields.number("delay_s"),
        delay_by_phase_s=_by_phase(fields.child("delay_by_phase_s")),
        slowest_device=fields.count("slowest_device"),
        device_delay_s=fields.numbers("device_delay_s"),
        device_delay_by_phase_s=tuple(_by_phase(phases) for phases in phases_of_devices),
        virtual_time_s=fields.number("virtual_time_s"),
        traffic=_traffic(fields),
        bytes_by_payload=fields.child("bytes_by_payload").all_counts(),
        wall_s=fields.number("wall_s"),
    )
    _check_sum(fields.where, "delay_by_phase_s", work.delay_by_phase_s, work.delay_s)
    delays, phases = work.device_delay_s, work.device_delay_by_phase_s
    if len(delays) != len(phases) or work.slowest_device >= len(delays):
        raise RunError(
            f"{fields.where}: {len(delays)} device_delay_s and {len(phases)} "
            f"device_delay_by_phase_s do not fit slowest_device {work.slowest_device}"
        )
    if work.shares and len(work.shares) != len(delays):
        raise RunError(f"{fields.where}: {len(work.shares)} shares for {len(delays)} devices")
    for device, (delay, by_phase) in enumerate(zip(delays, phases, strict=True)):
        _check_sum(fields.where, f"device_delay_by_phase_s[{device}]", by_phase, delay)
    return work


def _score(fields: JsonFields, suffix: str) -> Score:
    if "perplexity" + suffix in fields.values:
        return Score("perplexity", fields.loss("perplexity" + suffix))
    accuracy = fields.number("accuracy" + suffix)
    if accuracy > 1:
        raise RunError(f"{fields.where}: accuracy{suffix} is {accuracy}, needed is a fraction <= 1")
    return Score("accuracy", accuracy)


def _traffic(fields: JsonFields) -> Traffic:
    return Traffic(
        uplink_bytes=fields.count("uplink_bytes"),
        downlink_bytes=fields.count("downlink_bytes"),
        uncompressed_uplink_bytes=fields.count("uncompressed_uplink_bytes"),
        uncompressed_downlink_bytes=fields.count("uncompressed_downlink_bytes"),
    )


def _by_phase(fields: JsonFields) -> Mapping[str, float]:
    unknown = fields.values.keys() - PHASES.keys()
    if unknown:
        raise RunError(f"{fields.where}: unknown phase {min(unknown)!r}, not in {_names(PHASES)}")
    # runs recorded before a phase had a name of its own spent nothing in it
    given = {phase: fields.number(phase) for phase in PHASES if phase in fields.values}
    return MappingProxyType({phase: given.get(phase, 0.0) for phase in PHASES})


def _check_agreement(directory: Path, run: RunRecord) -> None:
    summary, last = run.summary, run.rounds[-1].round
    if summary.rounds != last:
        raise RunError(
            f"{directory}: summary.json counts {summary.rounds} rounds, rounds.jsonl {last}; "
            "the run was interrupted or is still going on: resume it or let it end"
        )
    works = [record.work for record in run.rounds if record.work is not None]
    sizes = [len(summary.samples_per_device), len(run.partition.counts)]
    sizes += [len(work.device_delay_s) for work in works]
    if any(size != summary.devices for size in sizes):
        raise RunError(
            f"{directory}: summary.json has {summary.devices} devices, but samples_per_device, "
            f"partition.json and the rounds list {sorted(set(sizes))}"
        )
    _check_totals(directory, summary, works)


def _check_totals(directory: Path, summary: Summary, works: list[RoundWork]) -> None:
    totals = {
        "delay_s": (summary.delay_s, sum(work.delay_s for work in works)),
        "uplink_bytes": (
            summary.traffic.uplink_bytes,
            sum(work.traffic.uplink_bytes for work in works),
        ),
        "downlink_bytes": (
            summary.traffic.downlink_bytes,
            sum(work.traffic.downlink_bytes for work in works),
        ),
    }
    for name, (told, summed) in totals.items():
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


def _lines(path: Path) -> Iterator[JsonFields]:
    with _readable(path), path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            yield parse_object(f"{path} line {number}", line)


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


def _names(vocabulary: Mapping[str, object]) -> str:
    return ", ".join(vocabulary)
