"""A run as columns of numbers and of text, the same on the console and on the page; and what its
codec saves.

Knows records and units, no layout.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cutlayer.report.vocabulary import phases_in
from cutlayer.report.wording import Scale, byte_scale, column, time_scale
from cutlayer.training.records import RoundRecord, TrainedRound

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
