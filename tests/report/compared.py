"""Made-up runs to compare: fake runs read back, made slower, larger or worse by a factor."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from cutlayer.report.comparison import ComparedRun, RefusedRun
from cutlayer.report.run_reader import RunRecord, read_record
from cutlayer.training.records import Record, RoundRecord, Score, Summary, TrainedRound
from report.fake_run import FakeRun, write_fake_run

R = TypeVar("R", bound=Record)
MIB = 2**20
SCHEMES = (
    "sft",
    "sft-uncompressed",
    "sft-overlap",
    "splitlora-paper",
    "splitlora",
    "sl",
    "fl-lora",
    "fl-full",
)


def compared(
    folder: Path,
    label: str,
    fake: FakeRun | None = None,
    slower: float = 1.0,
    larger: float = 1.0,
    learns: float = 1.0,
) -> ComparedRun:
    """A fake run whose times, bytes and gain of score are multiplied."""
    record = read_record(
        write_fake_run(folder / label.replace("/", "-"), fake or FakeRun(devices=3))
    )
    first = record.rounds[0].score.value
    rounds = tuple(_round(one, slower, larger, learns, first) for one in record.rounds)
    summary = changed(
        record.summary,
        scheme=label,
        delay_s=record.summary.delay_s * slower,
        delay_by_phase_s=_times(record.summary.delay_by_phase_s, slower),
        **_traffic(record.summary, larger),
        **final_score(rounds[-1].score),
    )
    config = f"scheme:\n  name: {label}\nseed: 0\n"
    done = RunRecord(config, rounds, record.partition, record.last_round_steps, summary)
    return ComparedRun(label, done, f"comparison/runs/{label}/dinov2-small-fashion-mnist-001")


def refused(label: str, need_mib: float = 155.0, limit_mib: float = 72.0) -> RefusedRun:
    """A run that needs more than there is."""
    kinds = {"weights": 0.55, "activations": 0.4, "input": 0.05}
    held = {kind: int(share * need_mib * MIB) for kind, share in kinds.items()}
    config = f"scheme:\n  name: {label}\nseed: 0\n"
    return RefusedRun(label, config, held, int(limit_mib * MIB))


def with_scores(run: ComparedRun, scores: list[float]) -> ComparedRun:
    """The same run with other scores, one an evaluation."""
    rounds = tuple(
        changed(record, **{record.score.measure: value})
        for record, value in zip(run.record.rounds, scores, strict=True)
    )
    summary = changed(run.record.summary, **final_score(rounds[-1].score))
    return replace(run, record=replace(run.record, rounds=rounds, summary=summary))


def changed(record: R, **values: object) -> R:
    """A record with other values, which are not checked: tests make what no run would."""
    return record.model_copy(update=values)


def final_score(score: Score) -> dict[str, float]:
    """The key of a summary that holds it."""
    return {f"{score.measure}_final": score.value}


def _round(
    record: RoundRecord, slower: float, larger: float, learns: float, first: float
) -> RoundRecord:
    score = {record.score.measure: first + learns * (record.score.value - first)}
    if not isinstance(record, TrainedRound):
        return changed(record, **score)
    return changed(
        record,
        **score,
        delay_s=record.delay_s * slower,
        virtual_time_s=record.virtual_time_s * slower,
        delay_by_phase_s=_times(record.delay_by_phase_s, slower),
        bytes_by_payload={k: int(v * larger) for k, v in record.bytes_by_payload.items()},
        **_traffic(record, larger),
    )


def _times(values: Mapping[str, float], factor: float) -> dict[str, float]:
    return {key: value * factor for key, value in values.items()}


def _traffic(record: TrainedRound | Summary, factor: float) -> dict[str, int]:
    names = ("uplink_bytes", "downlink_bytes")
    return {
        name: int(factor * getattr(record, name))
        for way in names
        for name in (way, f"uncompressed_{way}")
    }
