"""The page's table by round, every number beside its exact value. Knows records, gives HTML."""

from collections.abc import Callable, Sequence

from cutlayer.report.html_parts import Shown, table
from cutlayer.report.run_record import RoundRecord, RoundWork
from cutlayer.report.vocabulary import PHASES
from cutlayer.report.wording import Scale, byte_scale, column, time_scale


def round_table_html(records: Sequence[RoundRecord]) -> str:
    """One row per round: score, losses, bytes each way, virtual delay also by phase, real time."""
    works = [record.work for record in records]
    delays = _of(works, lambda work: work.delay_s)
    scale = time_scale(_largest(delays))
    columns = {
        "round": [Shown(record.round, str(record.round)) for record in records],
        **_score_column(records),
        "train loss": _numbers(_of(works, lambda work: work.train_loss)),
        "eval loss": _numbers([record.eval_loss for record in records]),
        **_in_unit("up", _of(works, lambda work: work.traffic.uplink_bytes), byte_scale),
        **_in_unit("down", _of(works, lambda work: work.traffic.downlink_bytes), byte_scale),
        f"delay [{scale.unit}]": _numbers(delays, scale.unit_size),
    }
    for phase, word in PHASES.items():
        seconds = [work.delay_by_phase_s[phase] if work else None for work in works]
        columns[f"{word.label} [{scale.unit}]"] = _numbers(seconds, scale.unit_size)
    columns |= _in_unit("virtual time", _of(works, lambda work: work.virtual_time_s), time_scale)
    columns |= _in_unit("computed in", _of(works, lambda work: work.wall_s), time_scale)
    return table(list(columns), zip(*columns.values(), strict=True))


def _score_column(records: Sequence[RoundRecord]) -> dict[str, list[Shown | str]]:
    scores = [record.score.value for record in records]
    if records[0].score.measure == "perplexity":
        return {"perplexity": _numbers(scores)}
    return {"accuracy [%]": [Shown(value, f"{100 * value:.1f}") for value in scores]}


def _in_unit(
    name: str, values: Sequence[float | None], scale_for: Callable[[float], Scale]
) -> dict[str, list[Shown | str]]:
    scale = scale_for(_largest(values))
    return {f"{name} [{scale.unit}]": _numbers(values, scale.unit_size)}


def _numbers(values: Sequence[float | None], unit_size: float = 1.0) -> list[Shown | str]:
    texts = column(values, unit_size)
    return [
        text if value is None else Shown(value, text)
        for value, text in zip(values, texts, strict=True)
    ]


def _of(
    works: Sequence[RoundWork | None], value: Callable[[RoundWork], float]
) -> list[float | None]:
    return [value(work) if work else None for work in works]


def _largest(values: Sequence[float | None]) -> float:
    return max((value for value in values if value is not None), default=0.0)
