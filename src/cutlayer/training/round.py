"""One round: bandwidth for its devices, their cohorts, and of what these come to the next state
and the round's seconds.

Sums over cohorts are taken in one order, whoever plays them. What a cohort does is `cohort`'s.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import final

import numpy as np

from cutlayer.codec.codec import Sent
from cutlayer.errors import RunError
from cutlayer.model.adapted import AdaptedModel
from cutlayer.model.optimizer import FedAvg, cohort_places, merged, sum_as_tree
from cutlayer.model.part_file import priced_bytes
from cutlayer.model.placement import to_device
from cutlayer.planner.allocation import ObservedRound, ask_shares, observed_work
from cutlayer.rounds.result import START, DeviceTimeline, RoundTimeline
from cutlayer.rounds.schemes import DeviceOrder, Phase, Scheme
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import DeviceWork, legs_of
from cutlayer.spec import Trained
from cutlayer.training.activation_cache import ActivationCache, CacheFigures
from cutlayer.training.adapter_rows import joined_sides, part_of_side
from cutlayer.training.cohort import (
    Cohort,
    CohortEnd,
    CohortStart,
    Devices,
    PlayCohorts,
    StepDone,
)
from cutlayer.training.exchange import RoundCosts
from cutlayer.training.state import AdapterState, RunState, Setup


@dataclass(frozen=True)
class RoundOutcome:
    """A closed round of `devices`, in their order: the next state, its mean training loss [nat],
    the devices' shares of the bandwidth, its costs, its seconds; and what became of the samples
    that the server held, if it holds any. The timeline numbers them by their places.

    `made`: those whose adapters came before it closed, `delay_s` after it began; `left`: those that
    left it. The timeline is of all of them, as if it had not closed."""

    devices: Devices
    made: Devices
    left: Devices
    delay_s: float
    state: RunState
    train_loss: float
    shares: tuple[float, ...]
    round_costs: RoundCosts
    timeline: RoundTimeline
    cache: CacheFigures | None = None


@final
class Round:
    """Plays round `index` (1, 2, ...) from `state`; the state itself is left as it was, unless the
    round `consumes` it, which then is not in memory twice.

    Those of `state.devices` take part, and the state after the round is of these too. `cache`: what
    the server holds of samples, for a scheme that caches them. `play`: who plays its cohorts (None:
    this process, one after another).
    """

    def __init__(
        self,
        setup: Setup,
        state: RunState,
        cache: ActivationCache | None = None,
        play: PlayCohorts | None = None,
        *,
        consumes: bool = False,
    ) -> None:
        self._setup = setup
        self._consumes = consumes
        self._population = setup.simulation.population
        everyone = tuple(range(len(setup.devices)))
        self._devices = everyone if state.devices is None else state.devices
        self._index = state.round + 1
        self._scheme = setup.training.scheme_of(self._index)
        self._state = state
        self._band = self._shares()
        several = len(self._devices) > 1
        self._leaves = setup.who_leaves(self._index, self._devices)
        # who makes the round is known when it has closed
        all_make_it = self._population is None or self._population.deadline_s is None
        fedavg = isinstance(setup.server.aggregation, FedAvg)
        self._summed = several and fedavg and all_make_it
        self._cache = cache
        if cache is not None:
            cache.begin_round(self._index)
        self._play = play or partial(play_here, setup, cache)

    def play(self, step_done: StepDone = lambda done, total: None) -> RoundOutcome:
        """Open, train, close. `step_done(done, total)` is called as local steps end."""
        return self._close(self._play(self._cohorts(), step_done))

    def _cohorts(self) -> list[CohortStart]:
        """What each cohort begins with: consecutive devices, as many as there are in any other, but
        for one."""
        state, weights = self._state, self._weights()
        began = dict.fromkeys(self._devices, state.round)
        if state.began is not None:
            began = dict(zip(self._devices, state.began, strict=True))
        size = self._setup.simulation.cohort if self._scheme.apart else len(self._devices)
        starts = []
        for own in cohort_places(len(self._devices), size):
            devices = self._devices[own]
            among = set(devices)
            start = CohortStart(
                index=self._index,
                devices=devices,
                began=began,
                device=part_of_side(state.device, own, devices),
                server=part_of_side(state.server, own, devices),
                streams={key: each for key, each in state.streams.items() if key[0] in among},
                weights=weights,
                summed=self._summed,
                consumes=self._consumes,
            )
            starts.append(start)
        return starts

    def _weights(self) -> Sent | None:
        """The frozen weights that devices hold, coded as a server sends them in their first round;
        None: they have them."""
        simulation = self._setup.simulation
        heard = any(step.phase is Phase.MODEL_DISTRIBUTION for step in self._scheme.opening)
        new = self._index == 1 if self._state.began is None else 0 in self._state.began
        if not new or self._scheme.trained is not Trained.ADAPTERS or not heard:
            return None
        weights = simulation.accounting.weights
        if weights is not None and weights.devices_have_them:
            return None
        parts = self._setup.parts[:1] if self._scheme.splits else self._setup.parts
        tensors = {name: value for part in parts for name, value in part.adapted.frozen().items()}
        size = priced_bytes(tensors, simulation.model_folder)
        return Sent(size, size)

    def _close(self, ends: Sequence[CohortEnd]) -> RoundOutcome:
        costs = RoundCosts.joined([end.costs for end in ends])
        work = self._work(costs)
        timeline = simulate(self._scheme, work, self._setup.simulation.rules)
        made, delay_s = self._closes(timeline, costs)
        before = self._state
        merging, trains = self._setup.training.merging, self._scheme.trains_device
        below, above = (part.adapted for part in self._setup.parts)
        state = RunState(
            round=self._index,
            virtual_time_s=before.virtual_time_s + delay_s,
            device=self._side(
                below,
                [end.device for end in ends],
                before.device,
                made,
                merges=merging.device and trains,
            ),
            server=self._side(
                above, [end.server for end in ends], before.server, made, merges=merging.server
            ),
            observed=self._observed(work),
            streams={key: own for end in ends for key, own in end.streams.items()},
            devices=before.devices,
            began=None if before.began is None else (self._index,) * len(self._devices),
        )
        held = None if self._cache is None else self._cache.close_round()
        return RoundOutcome(
            devices=self._devices,
            made=made,
            left=tuple(self._leaves),
            delay_s=delay_s,
            state=state,
            train_loss=self._mean_loss(ends, made),
            shares=self._band,
            round_costs=costs,
            timeline=timeline,
            cache=held,
        )

    def _mean_loss(self, ends: Sequence[CohortEnd], made: Devices) -> float:
        """Of the local steps of those who made the round [nat]."""
        losses = [end.loss for end in ends]
        if made != self._devices:
            own = [end.loss_of for end in ends]
            losses = [math.fsum(each[n] for n in each if n in made) for each in own]
        return sum_as_tree(losses) / self._setup.steps_of(made)

    def _closes(self, timeline: RoundTimeline, costs: RoundCosts) -> tuple[Devices, float]:
        """Who has made the round when it closes, and when that is [s]. Raises RunError for one that
        never does."""
        if self._population is None:
            return self._devices, timeline.delay_s
        came_s = [
            math.inf if device in self._leaves else own.delay_s
            for device, own in zip(self._devices, timeline.devices, strict=True)
        ]
        end = self._population.end(len(self._devices))
        close_s = end.closes_s(came_s)
        if close_s is None:
            raise RunError(
                f"round {self._index} has {len(self._devices) - len(self._leaves)} of the"
                f" {end.needed} adapters that it needs (net.quorum), and never closes:"
                f" {len(self._leaves)} devices left it (devices.dropout); start a new run with less"
                " of either"
            )
        for device, own, took_s in zip(self._devices, timeline.devices, came_s, strict=True):
            if close_s < took_s < math.inf:
                costs.take_back(device, begun_before(self._scheme, own, close_s))
        pairs = zip(self._devices, came_s, strict=True)
        return tuple(device for device, took_s in pairs if took_s <= close_s), close_s

    def _side(
        self,
        part: AdaptedModel,
        ends: Sequence[AdapterState],
        before: AdapterState,
        made: Devices,
        *,
        merges: bool,
    ) -> AdapterState:
        """A side's adapters after the round, of what its cohorts came to: merged of those who made
        it, or each device's own, which of the others are as they were `before`."""
        whole, aggregation = joined_sides(ends), self._setup.server.aggregation.of(part.layout)
        if merges:
            aggregation = aggregation.since(before.row)
        weights = [float(self._setup.devices[n].samples) for n in made]
        if not merges:
            return self._with_missed(whole, before, made)
        if made != self._devices:
            rows, places = whole.row, [n for n, own in enumerate(self._devices) if own in made]
            for to, place in enumerate(places):  # no second copy of all
                rows[to] = rows[place]
            return replace(whole, row=merged(aggregation, rows[: len(places)], weights))
        if isinstance(aggregation, FedAvg) and whole.row.ndim == 1:
            row = to_device(aggregation.of_sums([end.row for end in ends], weights), part.device)
        elif len(whole.row) == 1:
            row = whole.row[0].clone()
        else:
            row = merged(aggregation, whole.row, weights)
        return replace(whole, row=self._setup.revived(part, row))

    def _with_missed(
        self, whole: AdapterState, before: AdapterState, made: Devices
    ) -> AdapterState:
        row, own = whole.row, whole.coded.get("own")
        if made == self._devices or row.ndim == 1:
            return whole
        held = before.coded.get("own", before.row)
        for place, device in enumerate(self._devices):
            if device not in made:
                row[place] = before.of(place)
                if own is not None:
                    own[place] = held if held.ndim == 1 else held[place]
        return whole

    def _shares(self) -> tuple[float, ...]:
        """Each device's part of the bandwidth, from what is known as the round begins."""
        simulation, now_s = self._setup.simulation, self._state.virtual_time_s
        curves = simulation.channel.curves_of(self._index, now_s, self._devices)
        allocation = simulation.allocation.of(self._devices)
        return ask_shares(allocation, self._index, self._state.observed, curves)

    def _work(self, costs: RoundCosts) -> list[DeviceWork]:
        """What each device's round took, at its rates."""
        simulation, in_flight = self._setup.simulation, self._setup.training.in_flight
        now_s, devices = self._state.virtual_time_s, self._devices
        links = simulation.channel.rates(self._index, now_s, self._band, devices)
        if self._scheme.devices is DeviceOrder.IN_TURN:
            links = tuple(link.alone() for link in links)
        return [
            costs.work(device, rates, in_flight)
            for device, rates in zip(devices, self._setup.rates(links, devices), strict=True)
        ]

    def _observed(self, work: list[DeviceWork]) -> ObservedRound:
        """The round's amounts; of a device that left, or was not asked for anything, those known
        before: it may be asked again."""
        now = observed_work(self._scheme, work)
        if not self._scheme.cached and not self._leaves:
            return now
        rows, before = np.array(astuple(now)), np.array(astuple(self._state.observed))
        idle = np.array([device in self._leaves for device in self._devices])
        if self._scheme.cached:
            idle |= now.uplink_bits == 0
        rows[:, idle] = before[:, idle]
        return ObservedRound(*rows)


def begun_before(scheme: Scheme, line: DeviceTimeline, close_s: float) -> dict[Phase, int]:
    """How many times each phase of a device's round began before `close_s`."""
    legs = legs_of(scheme)
    parts = ((legs.opening, line.opening_s[None]), (legs.closing, line.closing_s[None]))
    return {
        leg.step.phase: int((spans_s[:, at, START] < close_s).sum())
        for own, spans_s in (*parts, (legs.local, line.local_s))
        for at, leg in enumerate(own)
        if leg.step is not None
    }


def play_here(
    setup: Setup,
    cache: ActivationCache | None,
    starts: Sequence[CohortStart],
    step_done: StepDone = lambda done, total: None,
) -> list[CohortEnd]:
    """One after another in this process."""
    totals = [setup.steps_of(start.devices) for start in starts]
    ends: list[CohortEnd] = []
    for number, start in enumerate(starts):
        before, total = sum(totals[:number]), sum(totals)
        told = partial(_later, step_done, before, total)
        ends.append(Cohort(setup, start, cache).play(told))
    return ends


def _later(step_done: StepDone, before: int, total: int, done: int, _: int) -> None:
    step_done(before + done, total)
