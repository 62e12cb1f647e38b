"""What is written about a round, and about a whole run: keys carry their units."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cutlayer.errors import RunError
from cutlayer.schemes.scheme import Phase
from cutlayer.timeline.result import Event
from cutlayer.train.evaluate import Evaluation
from cutlayer.train.round import RoundOutcome

Record = dict[str, Any]

_LOSSES = {"train_loss": "its training loss", "eval_loss": "the loss on the test samples"}
_SUMMED = (
    "uplink_bytes",
    "downlink_bytes",
    "uncompressed_uplink_bytes",
    "uncompressed_downlink_bytes",
    "delay_s",
    "wall_s",
)


def first_record(task: str, evaluation: Evaluation, wall_s: float) -> Record:
    """The evaluation before training, as round 0."""
    return {
        "round": 0,
        **evaluation.metric(task),
        "eval_loss": evaluation.loss,
        "virtual_time_s": 0.0,
        "wall_s": wall_s,
    }


def round_record(task: str, outcome: RoundOutcome, evaluation: Evaluation, wall_s: float) -> Record:
    """One finished round."""
    timeline = outcome.timeline
    by_device = [_named(timeline.phase_seconds(device)) for device in range(len(timeline.devices))]
    return {
        "round": outcome.state.round,
        **evaluation.metric(task),
        "eval_loss": evaluation.loss,
        "train_loss": outcome.train_loss,
        "shares": list(outcome.shares),
        "delay_s": timeline.delay_s,
        "delay_by_phase_s": _named(timeline.critical_phase_seconds()),
        "slowest_device": timeline.slowest_device,
        "device_delay_s": [device.delay_s for device in timeline.devices],
        "device_delay_by_phase_s": by_device,
        "virtual_time_s": outcome.state.virtual_time_s,
        **outcome.ledger.byte_counts(),
        "bytes_by_payload": outcome.ledger.bytes_by_payload(),
        "wall_s": wall_s,
    }


def check_finite(run: Path, record: Record, *, simulated: bool = True) -> None:
    """Raise RunError for a round whose loss is not finite, before anything of it is kept."""
    number = record["round"]
    for name, title in _LOSSES.items():
        if not math.isfinite(record.get(name, 0.0)):
            if number == 0:
                raise RunError(
                    f"before training {title} is {record[name]}: the model's weights hold values"
                    " that are not finite, or too large ones; take another checkpoint of it"
                )
            raise diverged(run, number, f"{title} is {record[name]}", simulated=simulated)


def diverged(run: Path, number: int, why: str, *, simulated: bool = True) -> RunError:
    """What is said of a round that came to values that are not finite."""
    before = number - 1
    ends = f" --training.rounds {before} beside --resume ends the run there;" if simulated else ""
    kept = (
        f"what round {before} left is kept in {run}, and going on from it comes to the same;{ends}"
        if before
        else "nothing was trained before it;"
    )
    return RunError(
        f"round {number} diverged: {why}; {kept} start a new run with a lower"
        " optimizer.learning_rate"
    )


def trace_lines(outcome: RoundOutcome) -> Iterator[Record]:
    """Every step of the round on the virtual clock, which starts anew each round."""
    for event in outcome.timeline.events():
        yield event_line(outcome.state.round, event)


def event_line(round_number: int, event: Event) -> Record:
    """One step or wait of a round."""
    line = asdict(event)
    payload_bytes = line.pop("payload_bytes")
    return {"round": round_number, **line, "bytes": payload_bytes}


def totals(records: list[Record]) -> Record:
    """Sums over the rounds, and the metric before and after."""
    name = "perplexity" if "perplexity" in records[0] else "accuracy"
    phases: Counter[str] = Counter({phase.value: 0.0 for phase in Phase})
    for record in records[1:]:
        phases.update(record["delay_by_phase_s"])
    return {
        "rounds": records[-1]["round"],
        f"{name}_first": records[0][name],
        f"{name}_final": records[-1][name],
        **{key: sum(record.get(key, 0) for record in records) for key in _SUMMED},
        "delay_by_phase_s": dict(phases),
    }


def _named(phases: dict[Phase, float]) -> dict[str, float]:
    return {phase.value: seconds for phase, seconds in phases.items()}
