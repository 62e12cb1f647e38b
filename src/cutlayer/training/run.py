"""A run: rounds until the last, each recorded and checkpointed, and evaluated where it is due."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from cutlayer.errors import PacketError, RunError
from cutlayer.rounds.schemes import Phase
from cutlayer.spec import Task
from cutlayer.training.activation_cache import ActivationCache, opened_cache
from cutlayer.training.cohort import PlayCohorts
from cutlayer.training.device_store import DeviceStore
from cutlayer.training.evaluation import Evaluation, evaluate, figures_of, share_of
from cutlayer.training.expected import initial_state
from cutlayer.training.population import (
    last_round,
    population_begins,
    round_begins,
    round_closed,
)
from cutlayer.training.records import CacheRecord, FirstRound, TraceLine, TrainedRound
from cutlayer.training.round import Round, RoundOutcome
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
    store = DeviceStore(log.directory.path)
    state = begin(setup, log, rounds, store)
    with opened_cache(setup.training, setup.server, log.directory.path) as cache:
        while state.round < rounds and log.stopped is None:
            log.observer.round_begins(state.round + 1, rounds)
            state = _one_round(setup, state, log, cache, play, store)


def begin(setup: Setup, log: RunLog, rounds: int, store: DeviceStore | None = None) -> RunState:
    """Where the log's directory stands; in a new one, what comes before the first of `rounds` is
    put there.

    Raises RunError for a checkpoint of another configuration.
    """
    state = log.directory.load()
    if state is not None:
        _check_fits(setup, state, log.directory)
        log.resume(state, state if store is None else last_round(setup, state, store))
        return state
    log.directory.cut_after(-1)
    log.observer.round_begins(0, rounds)
    some = setup.simulation.population is not None
    state = population_begins(setup) if some else initial_state(setup)
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
    store: DeviceStore,
) -> RunState:
    training, clock = setup.training, setup.simulation.clock
    start_s = clock()
    number = state.round + 1
    some = setup.simulation.population is not None
    try:
        begun = round_begins(setup, state, store) if some else state
        played = Round(setup, begun, cache, play, consumes=some)
        outcome = played.play(lambda done, total: log.observer.step_done(number, done, total))
    except PacketError as error:  # no codec takes values that are not finite
        raise diverged(log.directory.path, number, str(error)) from error
    evaluation = None
    if log.rule.due(number):
        wanted = log.rule.devices or training.merging.personal
        shares = [share_of(setup.devices[n]) for n in outcome.devices] if wanted else []
        evaluation = evaluate(training, setup.server, outcome.state, shares=shares)
    figures = figures_of(evaluation, training.task, log.rule)
    record = round_record(outcome, len(setup.devices), figures, clock() - start_s)
    state_after = outcome.state
    if some:
        state_after = round_closed(setup, state, outcome.state, outcome.made, store)
    log.round_done(state_after, record, trace_lines(outcome), evaluation, trained=outcome.state)
    return state_after


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
    late = tuple(n for n in devices if n not in outcome.made and n not in outcome.left)
    some |= {name: own for name, own in (("left", outcome.left), ("late", late)) if own}
    slowest = max(
        (place for place, device in enumerate(devices) if device in outcome.made),
        key=lambda place: timeline.devices[place].delay_s,
    )
    by_device = tuple(_named(timeline.phase_seconds(device)) for device in range(count))
    return TrainedRound(
        round=outcome.state.round,
        **evaluated,
        **some,
        train_loss=outcome.train_loss,
        shares=tuple(outcome.shares),
        delay_s=outcome.delay_s,
        delay_by_phase_s=_named(_delay_by_phase(outcome, slowest)),
        slowest_device=devices[slowest],
        device_delay_s=tuple(device.delay_s for device in timeline.devices),
        device_delay_by_phase_s=by_device,
        virtual_time_s=outcome.state.virtual_time_s,
        **bytes_sent,
        bytes_by_payload=outcome.round_costs.bytes_by_payload(),
        wall_s=wall_s,
        **cached,
    )


def _delay_by_phase(outcome: RoundOutcome, slowest: int) -> dict[Phase, float]:
    """Of who made the round last; it may then wait for the deadline."""
    timeline = outcome.timeline
    if len(outcome.made) == len(outcome.devices):
        return timeline.critical_phase_seconds()
    seconds = timeline.phase_seconds(slowest)
    seconds[Phase.BARRIER] += outcome.delay_s - timeline.devices[slowest].delay_s
    return seconds


def trace_lines(outcome: RoundOutcome) -> Iterator[TraceLine]:
    """Every step of the round on the simulated clock, which starts anew each round and stops when
    the round closes."""
    for event in outcome.timeline.events():
        if event.start_s <= outcome.delay_s:
            end_s = min(event.end_s, outcome.delay_s)
            own = replace(event, device=outcome.devices[event.device], end_s=end_s)
            yield TraceLine(round=outcome.state.round, event=own)


def _named(phases: dict[Phase, float]) -> dict[str, float]:
    return {phase.value: seconds for phase, seconds in phases.items()}
