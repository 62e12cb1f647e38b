"""A run: rounds until the last, each recorded and checkpointed, and evaluated where it is due."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from cutlayer.errors import PacketError, RunError
from cutlayer.rounds.schemes import Phase
from cutlayer.spec import Task
from cutlayer.training.activation_cache import ActivationCache, opened_cache
from cutlayer.training.cohort import PlayCohorts
from cutlayer.training.evaluation import Evaluation, evaluate, figures_of, share_of
from cutlayer.training.records import CacheRecord, FirstRound, TraceLine, TrainedRound
from cutlayer.training.round import Round, RoundOutcome, initial_state
from cutlayer.training.run_directory import RunDirectory, diverged
from cutlayer.training.run_log import RunLog
from cutlayer.training.state import RunState, Setup


def run_rounds(setup: Setup, log: RunLog, rounds: int, play: PlayCohorts | None = None) -> None:
    """Train until round `rounds` has finished, or no score got better for as long as the run is
    patient, from where the log's directory stands. `play`: as of `Round`.

    Killed at any point, a run loses the round in progress at most, and resumed from its directory
    ends with the same bytes. Raises RunError for a round that diverges; the directory then stands
    where the round before ended.
    """
    state = begin(setup, log, rounds)
    with opened_cache(setup.training, setup.server, log.directory.path) as cache:
        while state.round < rounds and log.stopped is None:
            log.observer.round_begins(state.round + 1, rounds)
            state = _one_round(setup, state, log, cache, play)


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


def _one_round(
    setup: Setup,
    state: RunState,
    log: RunLog,
    cache: ActivationCache | None,
    play: PlayCohorts | None,
) -> RunState:
    training, clock = setup.training, setup.simulation.clock
    start_s = clock()
    number = state.round + 1
    try:
        played = Round(setup, state, cache, play)
        outcome = played.play(lambda done, total: log.observer.step_done(number, done, total))
    except PacketError as error:  # no codec takes values that are not finite
        raise diverged(log.directory.path, number, str(error)) from error
    evaluation = None
    if log.rule.due(number):
        wanted = log.rule.devices or training.merging.personal
        shares = [share_of(device) for device in setup.devices] if wanted else []
        evaluation = evaluate(training, setup.server, outcome.state, shares=shares)
    figures = figures_of(evaluation, training.task, log.rule)
    record = round_record(outcome, len(setup.devices), figures, clock() - start_s)
    log.round_done(outcome.state, record, trace_lines(outcome), evaluation)
    return outcome.state


def _check_fits(setup: Setup, state: RunState, directory: RunDirectory) -> None:
    expected = tuple(part.adapted.layout.parameters for part in setup.parts)
    found = (state.device.row.shape[-1], state.server.row.shape[-1])
    if found != expected:
        raise RunError(
            f"the checkpoint in {directory.path} has adapters of {found} values (device, server),"
            f" the configuration makes {expected}: its config.yaml was changed"
        )


def first_record(task: Task, evaluation: Evaluation, wall_s: float) -> FirstRound:
    """The evaluation before training, as round 0."""
    return FirstRound(
        round=0,
        **evaluation.figures(task),
        virtual_time_s=0.0,
        wall_s=wall_s,
    )


def round_record(
    outcome: RoundOutcome, population: int, evaluated: dict[str, Any], wall_s: float
) -> TrainedRound:
    """One finished round of some of the `population`; `evaluated`: the figures of its evaluation,
    by key."""
    timeline, devices = outcome.timeline, outcome.devices
    count = len(devices)
    bytes_sent: dict[str, Any] = dict(outcome.round_costs.byte_counts())
    cached: dict[str, Any] = {}
    if outcome.cache is not None:
        cached["cache"] = CacheRecord(**asdict(outcome.cache))
    some: dict[str, Any] = {"participants": devices} if count < population else {}
    by_device = tuple(_named(timeline.phase_seconds(device)) for device in range(count))
    return TrainedRound(
        round=outcome.state.round,
        **evaluated,
        **some,
        train_loss=outcome.train_loss,
        shares=tuple(outcome.shares),
        delay_s=timeline.delay_s,
        delay_by_phase_s=_named(timeline.critical_phase_seconds()),
        slowest_device=devices[timeline.slowest_device],
        device_delay_s=tuple(device.delay_s for device in timeline.devices),
        device_delay_by_phase_s=by_device,
        virtual_time_s=outcome.state.virtual_time_s,
        **bytes_sent,
        bytes_by_payload=outcome.round_costs.bytes_by_payload(),
        wall_s=wall_s,
        **cached,
    )


def trace_lines(outcome: RoundOutcome) -> Iterator[TraceLine]:
    """Every step of the round on the simulated clock, which starts anew each round."""
    for event in outcome.timeline.events():
        own = replace(event, device=outcome.devices[event.device])
        yield TraceLine(round=outcome.state.round, event=own)


def _named(phases: dict[Phase, float]) -> dict[str, float]:
    return {phase.value: seconds for phase, seconds in phases.items()}
