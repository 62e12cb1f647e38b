"""One round: bandwidth for its devices, their cohorts, and of what these come to the next state
and the round's seconds.

Sums over cohorts are taken in one order, whoever plays them. What a cohort does is `cohort`'s.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import final

import numpy as np

from cutlayer.codec.codec import Sent
from cutlayer.model.adapted import AdaptedModel
from cutlayer.model.optimizer import FedAvg, cohort_places, merged, sum_as_tree
from cutlayer.model.part_file import priced_bytes
from cutlayer.model.placement import to_device
from cutlayer.planner.allocation import ObservedRound, ask_shares, observed_work
from cutlayer.rounds.result import RoundTimeline
from cutlayer.rounds.schemes import DeviceOrder, Phase
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import DeviceWork
from cutlayer.spec import Trained
from cutlayer.training.activation_cache import ActivationCache, CacheFigures
from cutlayer.training.adapter_rows import joined_sides, part_of_side
from cutlayer.training.cohort import (
    CohortEnd,
    CohortStart,
    Devices,
    PlayCohorts,
    StepDone,
    play_here,
    steps_of,
)
from cutlayer.training.exchange import RoundCosts
from cutlayer.training.expected import expected_round
from cutlayer.training.state import AdapterState, RunState, Setup


@dataclass(frozen=True)
class RoundOutcome:
    """A closed round of `devices`, in their order: the next state, its mean training loss [nat],
    the devices' shares of the bandwidth, its costs, its seconds; and what became of the samples
    that the server held, if it holds any. The timeline numbers them by their places."""

    devices: Devices
    state: RunState
    train_loss: float
    shares: tuple[float, ...]
    round_costs: RoundCosts
    timeline: RoundTimeline
    cache: CacheFigures | None = None


@final
class Round:
    """Plays round `index` (1, 2, ...) from `state`; the state itself is left as it was.

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
    ) -> None:
        self._setup = setup
        everyone = tuple(range(len(setup.devices)))
        self._devices = everyone if state.devices is None else state.devices
        self._index = state.round + 1
        self._scheme = setup.training.scheme_of(self._index)
        self._state = state
        self._band = self._shares()
        several = len(self._devices) > 1
        self._summed = several and isinstance(setup.server.aggregation, FedAvg)
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
        size = self._setup.simulation.cohort if self._scheme.apart else len(self._devices)
        starts = []
        for own in cohort_places(len(self._devices), size):
            devices = self._devices[own]
            among = set(devices)
            start = CohortStart(
                index=self._index,
                devices=devices,
                device=part_of_side(state.device, own, devices),
                server=part_of_side(state.server, own, devices),
                streams={key: each for key, each in state.streams.items() if key[0] in among},
                weights=weights,
                summed=self._summed,
            )
            starts.append(start)
        return starts

    def _weights(self) -> Sent | None:
        """The frozen weights that devices hold, coded as a server sends them in the first round;
        None: they have them."""
        simulation = self._setup.simulation
        heard = any(step.phase is Phase.MODEL_DISTRIBUTION for step in self._scheme.opening)
        if self._index > 1 or self._scheme.trained is not Trained.ADAPTERS or not heard:
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
        merging, trains = self._setup.training.merging, self._scheme.trains_device
        below, above = (part.adapted for part in self._setup.parts)
        state = RunState(
            round=self._index,
            virtual_time_s=self._state.virtual_time_s + timeline.delay_s,
            device=self._side(
                below, [end.device for end in ends], merges=merging.device and trains
            ),
            server=self._side(above, [end.server for end in ends], merges=merging.server),
            observed=self._observed(work),
            streams={key: own for end in ends for key, own in end.streams.items()},
            devices=self._state.devices,
        )
        loss = sum_as_tree([end.loss for end in ends]) / steps_of(self._setup, self._devices)
        held = None if self._cache is None else self._cache.close_round()
        return RoundOutcome(self._devices, state, loss, self._band, costs, timeline, held)

    def _side(
        self, part: AdaptedModel, ends: Sequence[AdapterState], *, merges: bool
    ) -> AdapterState:
        """A side's adapters after the round, of what its cohorts came to: merged, or each device's
        own."""
        whole, aggregation = joined_sides(ends), self._setup.server.aggregation
        weights = [float(self._setup.devices[n].samples) for n in self._devices]
        if not merges:
            return whole
        if isinstance(aggregation, FedAvg) and whole.row.ndim == 1:
            row = to_device(aggregation.of_sums([end.row for end in ends], weights), part.device)
        elif len(whole.row) == 1:
            row = whole.row[0].clone()
        else:
            row = merged(aggregation.of(part.layout), whole.row, weights)
        return replace(whole, row=self._setup.revived(part, row))

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
        """The round's amounts; of a device that was not asked for anything those known before: it
        may be asked again."""
        now = observed_work(self._scheme, work)
        if not self._scheme.cached:
            return now
        rows, before = np.array(astuple(now)), np.array(astuple(self._state.observed))
        idle = now.uplink_bits == 0
        rows[:, idle] = before[:, idle]
        return ObservedRound(*rows)


def initial_state(setup: Setup, devices: Sequence[int] | None = None) -> RunState:
    """The state before round 1, which these devices play (None: all): seeded adapters, and what the
    round is expected to take; optimisers start when they are first used."""
    seed = setup.training.seed
    device, server = (AdapterState(part.adapted.initial_row(seed), {}) for part in setup.parts)
    return RunState(
        round=0,
        virtual_time_s=0.0,
        device=device,
        server=server,
        observed=expected_round(setup, devices),
        devices=None if devices is None else tuple(devices),
    )
