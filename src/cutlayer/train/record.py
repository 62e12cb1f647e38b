"""What is written about a round, and about a whole run: keys carry their units."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cutlayer.errors import RunError
from cutlayer.schemes.scheme import Phase
from cutlayer.train.evaluate import Evaluation
from cutlayer.train.records import FirstRound, RoundRecord, TraceLine, TrainedRound
from cutlayer.train.round import RoundOutcome

_LOSSES = {"train_loss": "its training loss", "eval_loss": "the loss on the test samples"}
_SUMMED = (
    "uplink_bytes",
    "downlink_bytes",
    "uncompressed_uplink_bytes",
    "uncompressed_downlink_bytes",
    "delay_s",
)


def first_record(task: str, evaluation: Evaluation, wall_s: float) -> FirstRound:
    """The evaluation before training, as round 0."""
    return FirstRound(
        round=0,
        **evaluation.metric(task),
        eval_loss=evaluation.loss,
        virtual_time_s=0.0,
        wall_s=wall_s,
    )


def round_record(
    task: str, outcome: RoundOutcome, evaluation: Evaluation, wall_s: float
) -> TrainedRound:
    """One finished round."""
    timeline = outcome.timeline
    count = len(timeline.devices)
    by_device = tuple(_named(timeline.phase_seconds(device)) for device in range(count))
    return TrainedRound(
        round=outcome.state.round,
        **evaluation.metric(task),
        eval_loss=evaluation.loss,
        train_loss=outcome.train_loss,
        shares=tuple(outcome.shares),
        delay_s=timeline.delay_s,
        delay_by_phase_s=_named(timeline.critical_phase_seconds()),
        slowest_device=timeline.slowest_device,
        device_delay_s=tuple(device.delay_s for device in timeline.devices),
        device_delay_by_phase_s=by_device,
        virtual_time_s=outcome.state.virtual_time_s,
        **outcome.ledger.byte_counts(),
        bytes_by_payload=outcome.ledger.bytes_by_payload(),
        wall_s=wall_s,
    )


def check_finite(run: Path, record: RoundRecord, *, simulated: bool = True) -> None:
    """Raise RunError for a round whose loss is not finite, before anything of it is kept."""
    number = record.round
    for name, title in _LOSSES.items():
        loss = getattr(record, name, 0.0)  # before training there is one of them
        if not math.isfinite(loss):
            if number == 0:
                raise RunError(
                    f"before training {title} is {loss}: the model's weights hold values"
                    " that are not finite, or too large ones; take another checkpoint of it"
                )
            raise diverged(run, number, f"{title} is {loss}", simulated=simulated)


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


def trace_lines(outcome: RoundOutcome) -> Iterator[TraceLine]:
    """Every step of the round on the virtual clock, which starts anew each round."""
    for event in outcome.timeline.events():
        yield TraceLine(round=outcome.state.round, event=event)


def totals(records: Sequence[RoundRecord]) -> dict[str, Any]:
    """Of a summary, the sums over the rounds, and the metric before and after."""
    trained = [record for record in records if isinstance(record, TrainedRound)]
    first, final = records[0].score, records[-1].score
    phases: Counter[str] = Counter({phase.value: 0.0 for phase in Phase})
    for record in trained:
        phases.update(record.delay_by_phase_s)
    return {
        "rounds": records[-1].round,
        f"{first.measure}_first": first.value,
        f"{final.measure}_final": final.value,
        **{name: sum(getattr(record, name) for record in trained) for name in _SUMMED},
        "wall_s": sum(record.wall_s for record in records),
        "delay_by_phase_s": dict(phases),
    }


def _named(phases: dict[Phase, float]) -> dict[str, float]:
    return {phase.value: seconds for phase, seconds in phases.items()}
