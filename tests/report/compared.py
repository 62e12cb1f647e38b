"""Made-up runs to compare: fake runs read back, made slower, larger or worse by a factor."""

from dataclasses import replace
from pathlib import Path

from cutlayer.report.comparison import ComparedRun, RefusedRun
from cutlayer.report.run_reader import read_run
from cutlayer.report.run_record import RoundRecord, RoundWork, RunRecord, Score, Traffic
from report.fake_run import FakeRun, write_fake_run

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
    record = read_run(write_fake_run(folder / label.replace("/", "-"), fake or FakeRun(devices=3)))
    first = record.rounds[0].score.value
    rounds = tuple(_round(one, slower, larger, learns, first) for one in record.rounds)
    summary = replace(
        record.summary,
        scheme=label,
        delay_s=record.summary.delay_s * slower,
        delay_by_phase_s=_times(record.summary.delay_by_phase_s, slower),
        traffic=_traffic(record.summary.traffic, larger),
        score_final=rounds[-1].score,
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
        replace(record, score=replace(record.score, value=value))
        for record, value in zip(run.record.rounds, scores, strict=True)
    )
    summary = replace(run.record.summary, score_final=rounds[-1].score)
    return replace(run, record=replace(run.record, rounds=rounds, summary=summary))


def _round(
    record: RoundRecord, slower: float, larger: float, learns: float, first: float
) -> RoundRecord:
    value = first + learns * (record.score.value - first)
    score = Score(record.score.measure, value)
    work = None if record.work is None else _work(record.work, slower, larger)
    return replace(record, score=score, work=work)


def _work(work: RoundWork, slower: float, larger: float) -> RoundWork:
    return replace(
        work,
        delay_s=work.delay_s * slower,
        virtual_time_s=work.virtual_time_s * slower,
        delay_by_phase_s=_times(work.delay_by_phase_s, slower),
        traffic=_traffic(work.traffic, larger),
        bytes_by_payload={k: int(v * larger) for k, v in work.bytes_by_payload.items()},
    )


def _times(values: object, factor: float) -> dict[str, float]:
    return {key: value * factor for key, value in dict(values).items()}  # type: ignore[call-overload]


def _traffic(traffic: Traffic, factor: float) -> Traffic:
    return Traffic(
        *(
            int(factor * size)
            for size in (
                traffic.uplink_bytes,
                traffic.downlink_bytes,
                traffic.uncompressed_uplink_bytes,
                traffic.uncompressed_downlink_bytes,
            )
        )
    )
