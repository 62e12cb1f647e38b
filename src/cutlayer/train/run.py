"""A run: rounds until the last, each evaluated, recorded and checkpointed."""

from abc import ABC, abstractmethod
from typing import Any, final

from cutlayer.errors import PacketError, RunError
from cutlayer.train.evaluate import evaluate
from cutlayer.train.files import write_json
from cutlayer.train.records import RoundRecord, Summary
from cutlayer.train.round import Round, initial_state
from cutlayer.train.run_directory import (
    RunDirectory,
    check_finite,
    diverged,
    first_record,
    round_record,
    totals,
    trace_lines,
)
from cutlayer.train.state import RunState, Setup


class Observer(ABC):
    """Told what happens while a run goes on; it must not change anything."""

    @abstractmethod
    def round_begins(self, number: int, rounds: int) -> None:
        """Round `number` of `rounds` begins; 0: the evaluation before training."""

    @abstractmethod
    def step_done(self, round_number: int, done: int, total: int) -> None:
        """`done` of `total` local steps of the round have ended."""

    @abstractmethod
    def round_done(self, record: RoundRecord) -> None:
        """A round has been evaluated and recorded (0: before training)."""


@final
class Silent(Observer):
    """An observer that shows nothing."""

    def round_begins(self, number: int, rounds: int) -> None:
        """Nothing."""

    def step_done(self, round_number: int, done: int, total: int) -> None:
        """Nothing."""

    def round_done(self, record: RoundRecord) -> None:
        """Nothing."""


def run_rounds(
    setup: Setup, directory: RunDirectory, rounds: int, observer: Observer
) -> tuple[RunState, list[RoundRecord]]:
    """Train until round `rounds` has finished, from where `directory` stands.

    Returns the last state and all records. Killed at any point, a run loses the round in
    progress at most, and resumed from its directory ends with the same bytes. Raises RunError for
    a round that diverges; `directory` then stands where the round before ended.
    """
    state = begin(setup, directory, rounds, observer)
    while state.round < rounds:
        observer.round_begins(state.round + 1, rounds)
        state = _one_round(setup, state, directory, observer)
    return state, directory.records()


def begin(setup: Setup, directory: RunDirectory, rounds: int, observer: Observer) -> RunState:
    """Where `directory` stands; in a new one, what comes before the first of `rounds` is put there.

    Raises RunError for a checkpoint of another configuration.
    """
    state = directory.load()
    if state is not None:
        _check_fits(setup, state, directory)
        directory.cut_after(state.round)
        return state
    directory.cut_after(-1)
    observer.round_begins(0, rounds)
    state = initial_state(setup)
    start_s = setup.clock()
    record = first_record(setup.task, evaluate(setup, state), setup.clock() - start_s)
    check_finite(directory.path, record)
    directory.append("rounds.jsonl", [record])
    directory.save(state)
    observer.round_done(record)
    return state


def write_summary(
    directory: RunDirectory, records: list[RoundRecord], about: dict[str, Any]
) -> Summary:
    """`summary.json`: what the run was (`about`) and what it came to."""
    summary = Summary(**about, **totals(records))
    write_json(directory.path / "summary.json", summary.written())
    return summary


def _one_round(
    setup: Setup, state: RunState, directory: RunDirectory, observer: Observer
) -> RunState:
    start_s = setup.clock()
    number = state.round + 1
    try:
        played = Round(setup, state)
        outcome = played.play(lambda done, total: observer.step_done(number, done, total))
    except PacketError as error:  # no codec takes values that are not finite
        raise diverged(directory.path, number, str(error)) from error
    evaluation = evaluate(setup, outcome.state)
    record = round_record(setup.task, outcome, evaluation, setup.clock() - start_s)
    check_finite(directory.path, record)
    directory.append("trace.jsonl", trace_lines(outcome))
    directory.append("rounds.jsonl", [record])
    directory.save(outcome.state)
    observer.round_done(record)
    return outcome.state


def _check_fits(setup: Setup, state: RunState, directory: RunDirectory) -> None:
    expected = (
        setup.device_part.adapted.layout.parameters,
        setup.server_part.adapted.layout.parameters,
    )
    found = (state.device.row.numel(), state.server.row.numel())
    if found != expected:
        raise RunError(
            f"the checkpoint in {directory.path} holds adapters of {found} values (device, server),"
            f" the configuration makes {expected}: its config.yaml was changed"
        )
