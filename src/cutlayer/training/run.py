"""A run: rounds until the last, each evaluated, recorded and checkpointed.

Evaluation tells how good the global adapters are: the test split through both parts, uncompressed.
It never holds more than training does: batches are no larger than a device's micro-batch, nothing
is kept for backward, and a language model's logits are there for a few tokens at a time.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cutlayer.data.samples import Batch
from cutlayer.errors import PacketError, RunError
from cutlayer.files import write_json
from cutlayer.model.placement import to_device
from cutlayer.model.tasks import next_tokens
from cutlayer.rounds.schemes import Phase
from cutlayer.spec import IGNORED_LABEL, MOST_LOGITS
from cutlayer.training.exchange import group_inputs
from cutlayer.training.records import (
    FirstRound,
    Observer,
    RoundRecord,
    Summary,
    TraceLine,
    TrainedRound,
    best_round,
)
from cutlayer.training.round import Round, RoundOutcome, initial_state
from cutlayer.training.run_directory import RunDirectory, check_finite, diverged, totals
from cutlayer.training.state import RunState, ServerSide, Setup, Training

# How good the global adapters are.


_MOST_SAMPLES = 64


@dataclass(frozen=True)
class Evaluation:
    """Mean loss [nat] over samples (tokens for language modelling), and the fraction right."""

    loss: float
    accuracy: float

    def metric(self, task: str) -> dict[str, Any]:
        """The figure to report: `accuracy`, or `perplexity` (e^loss) of a language model."""
        if task == "causal-lm":
            return {"perplexity": math.exp(min(self.loss, 700.0))}
        return {"accuracy": self.accuracy}


@torch.no_grad()
def evaluate(training: Training, server: ServerSide, state: RunState) -> Evaluation:
    """Run the test split through device part and server part with the global adapters."""
    below, above = server.device_part.adapted.device, server.part.adapted.device
    rows = to_device(state.device.row, below), to_device(state.server.row, above)
    losses, right, counted = [], [], 0  # tensors: who reads one waits for it
    step = min(training.micro_batch_samples, _MOST_SAMPLES)
    for first in range(0, len(server.test), step):
        indices = np.arange(first, min(first + step, len(server.test)))
        batch = server.batches.make(server.test, indices)
        for logits, labels in _predictions(training, server, rows, batch):
            counted += int((labels != IGNORED_LABEL).sum())
            labels = to_device(labels.long(), logits.device)
            losses.append(
                functional.cross_entropy(
                    logits, labels, ignore_index=IGNORED_LABEL, reduction="sum"
                )
            )
            right.append((logits.argmax(-1) == labels).sum())
    loss = 0.0
    for each in torch.stack(losses).cpu().tolist():
        loss += each
    return Evaluation(loss / counted, int(torch.stack(right).sum()) / counted)


def _predictions(
    training: Training, server: ServerSide, rows: tuple[Tensor, Tensor], batch: Batch
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits [row, class] of the batch's samples or, a few at a time, tokens; with the labels,
    which are on the host. `rows`: of device part and server part."""
    group, labels = group_inputs([batch]), torch.from_numpy(batch.labels)
    part, (below, row) = server.part, rows
    activation = server.device_part.forward(below[None], group.sizes, group.inputs).float()
    if training.task != "causal-lm":
        yield part.forward(row[None], group.sizes, activation, group.lengths).float(), labels
        return
    most = max(1, MOST_LOGITS // training.classes)
    wanted = torch.split(next_tokens(labels).flatten(), most)
    for logits, own in zip(
        part.token_logits(row, activation, group.lengths, most, group.documents),
        wanted,
        strict=True,
    ):
        yield logits.float(), own


# What is written as a round ends.


# puts what was trained until a state into the run directory, as that of the last round and, if
# told so, as that of the best
Keep: TypeAlias = Callable[[RunState, bool], None]


@final
class RunLog:
    """A run's directory as its rounds end: their records, the checkpoint, what was trained.

    `records`: of all finished rounds, the evaluation before training first.
    """

    def __init__(self, directory: RunDirectory, keep: Keep, observer: Observer) -> None:
        self.directory = directory
        self.observer = observer
        self.records: list[RoundRecord] = []
        self._keep = keep

    def resume(self, state: RunState) -> None:
        """Go on from a checkpoint: what lies there of later rounds goes, and what a kill has kept
        from being written comes."""
        self.directory.cut_after(state.round)
        self.records = self.directory.records()
        if state.round:
            self._keep(state, self._is_best(state))

    def begin(self, state: RunState, record: FirstRound) -> None:
        """The evaluation before training. Raises RunError for a loss that is not finite."""
        check_finite(self.directory.path, record)
        self._close(state, record)

    def round_done(
        self,
        state: RunState,
        record: TrainedRound,
        trace: Iterable[TraceLine],
        *,
        simulated: bool = True,
    ) -> None:
        """A round: trace and record, then the checkpoint, then what was trained. A kill between
        them is made good by `resume`. Raises RunError for a loss that is not finite, before
        anything of the round is written."""
        check_finite(self.directory.path, record, simulated=simulated)
        self.directory.append("trace.jsonl", trace)
        self._close(state, record)

    def _close(self, state: RunState, record: RoundRecord) -> None:
        self.directory.append("rounds.jsonl", [record])
        self.directory.save(state)
        self.records.append(record)
        if state.round:
            self._keep(state, self._is_best(state))
        self.observer.round_done(record)

    def _is_best(self, state: RunState) -> bool:
        best = best_round(self.records)
        return best is not None and best.round == state.round


# Rounds until the last.


def run_rounds(setup: Setup, log: RunLog, rounds: int) -> None:
    """Train until round `rounds` has finished, from where the log's directory stands.

    Killed at any point, a run loses the round in progress at most, and resumed from its directory
    ends with the same bytes. Raises RunError for a round that diverges; the directory then stands
    where the round before ended.
    """
    state = begin(setup, log, rounds)
    while state.round < rounds:
        log.observer.round_begins(state.round + 1, rounds)
        state = _one_round(setup, state, log)


def begin(setup: Setup, log: RunLog, rounds: int) -> RunState:
    """Where the log's directory stands; in a new one, what comes before the first of `rounds` is
    put there.

    Raises RunError for a checkpoint of another configuration.
    """
    state = log.directory.load()
    if state is not None:
        _check_fits(setup, state, log.directory)
        log.resume(state)
        return state
    log.directory.cut_after(-1)
    log.observer.round_begins(0, rounds)
    state = initial_state(setup)
    clock = setup.simulation.clock
    start_s = clock()
    evaluation = evaluate(setup.training, setup.server, state)
    log.begin(state, first_record(setup.training.task, evaluation, clock() - start_s))
    return state


def write_summary(
    directory: RunDirectory, records: list[RoundRecord], about: dict[str, Any]
) -> Summary:
    """`summary.json`: what the run was (`about`) and what it came to."""
    summary = Summary(**about, **totals(records))
    write_json(directory.path / "summary.json", summary.written())
    return summary


def _one_round(setup: Setup, state: RunState, log: RunLog) -> RunState:
    training, clock = setup.training, setup.simulation.clock
    start_s = clock()
    number = state.round + 1
    try:
        played = Round(setup, state)
        outcome = played.play(lambda done, total: log.observer.step_done(number, done, total))
    except PacketError as error:  # no codec takes values that are not finite
        raise diverged(log.directory.path, number, str(error)) from error
    evaluation = evaluate(training, setup.server, outcome.state)
    record = round_record(training.task, outcome, evaluation, clock() - start_s)
    log.round_done(outcome.state, record, trace_lines(outcome))
    return outcome.state


def _check_fits(setup: Setup, state: RunState, directory: RunDirectory) -> None:
    expected = tuple(part.adapted.layout.parameters for part in setup.parts)
    found = (state.device.row.numel(), state.server.row.numel())
    if found != expected:
        raise RunError(
            f"the checkpoint in {directory.path} has adapters of {found} values (device, server),"
            f" the configuration makes {expected}: its config.yaml was changed"
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
        **outcome.round_costs.byte_counts(),
        bytes_by_payload=outcome.round_costs.bytes_by_payload(),
        wall_s=wall_s,
    )


def trace_lines(outcome: RoundOutcome) -> Iterator[TraceLine]:
    """Every step of the round on the simulated clock, which starts anew each round."""
    for event in outcome.timeline.events():
        yield TraceLine(round=outcome.state.round, event=event)


def _named(phases: dict[Phase, float]) -> dict[str, float]:
    return {phase.value: seconds for phase, seconds in phases.items()}
