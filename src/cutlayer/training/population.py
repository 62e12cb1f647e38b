"""Rounds of a population: what those who take part remember is brought together with what the run
has of all, and taken apart again when the round has closed.

Between rounds a state has the merged adapters, or those that everybody begins with; each device's
own, its optimiser, what its codecs remember and what its last round took are in the store. Who
misses a round's end keeps no more than its own adapters, as they were: over a network it begins the
next one from scratch too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace

import numpy as np
import torch
from torch import Tensor

from cutlayer.codec.codec import Direction, Stream
from cutlayer.model.optimizer import Optimizer
from cutlayer.planner.allocation import ObservedRound
from cutlayer.rounds.participants import RoundBegins
from cutlayer.training.device_store import DeviceStore, Memory, empty_table
from cutlayer.training.exchange import streams_from_tensors, streams_to_tensors
from cutlayer.training.expected import expected_round, initial_state, nothing_observed
from cutlayer.training.state import AdapterState, OptimizerState, RunState, Setup

# of each device of a population: the last round that it began (0: none), and its record
_BEGAN, _RECORDS = "began", "records"
_SIDES = ("device", "server")
_OPTIMIZER = "optimizer."


def population_begins(setup: Setup) -> RunState:
    """The state before round 1: nobody has taken part."""
    count = len(setup.devices)
    known = {
        _BEGAN: torch.zeros(count, dtype=torch.int64),
        _RECORDS: torch.from_numpy(empty_table(count)),
    }
    return replace(initial_state(setup, ()), population=known)


def round_begins(setup: Setup, state: RunState, store: DeviceStore) -> RunState:
    """The state of those who take part in the next round, as it begins. Raises RunError for a
    record that cannot be read, and for a round that too few are there for."""
    population = setup.simulation.population
    assert population is not None, "a run of a population"
    begins = population.begin(state.round + 1, state.virtual_time_s)
    return _of(setup, state, begins, store)


def last_round(setup: Setup, state: RunState, store: DeviceStore) -> RunState:
    """The state of those who began the last round, after it: where devices have adapters of their
    own, it has those. Else it is the run's."""
    if setup.simulation.population is None or not setup.training.merging.personal:
        return state
    began = torch.nonzero(state.population[_BEGAN] == state.round).flatten().tolist()
    if state.round == 0 or not began:
        return state
    return _of(setup, state, RoundBegins(tuple(began), state.virtual_time_s), store)


def _of(setup: Setup, state: RunState, begins: RoundBegins, store: DeviceStore) -> RunState:
    devices, table = begins.devices, state.population[_RECORDS].numpy()
    memories = [store.read(table, device) for device in devices]
    rules = [setup.training.rule(part.adapted.layout) for part in setup.parts]
    shared = setup.training.scheme.shared_server
    device, server = (
        _joined(own, side, rule, devices, memories, shared=shared and side == "server")
        for own, side, rule in zip((state.device, state.server), _SIDES, rules, strict=True)
    )
    streams: dict[tuple[int, Direction], Stream] = {}
    for number, memory in zip(devices, memories, strict=True):
        found = streams_from_tensors(dict(memory))
        streams |= {(number, direction): stream for (_, direction), stream in found.items()}
    return replace(
        state,
        virtual_time_s=begins.now_s,
        device=device,
        server=server,
        observed=_observed(setup, devices, memories),
        streams=streams,
        devices=devices,
        began=tuple(state.population[_BEGAN][list(devices)].tolist()),
        population={},
    )


def _observed(setup: Setup, devices: Sequence[int], memories: Sequence[Memory]) -> ObservedRound:
    """What each one's last round took; of who has had none what its first is expected to."""
    new = [n for n, memory in zip(devices, memories, strict=True) if "observed" not in memory]
    rows = np.zeros((4, len(devices)))
    if new:
        places = [devices.index(n) for n in new]
        rows[:, places] = np.array(astuple(expected_round(setup, new)))
    for place, memory in enumerate(memories):
        if "observed" in memory:
            rows[:, place] = memory["observed"].numpy()
    return ObservedRound(*rows)


def _joined(
    common: AdapterState,
    side: str,
    rule: Optimizer,
    devices: Sequence[int],
    memories: Sequence[Memory],
    *,
    shared: bool,
) -> AdapterState:
    """One side's adapters, of what all have in common and what each remembers."""
    row, prefix = common.row, f"{side}."
    own = [_under(memory, prefix) for memory in memories]
    rows = row
    if any("row" in each for each in own):
        rows = torch.stack([each.get("row", row) for each in own])
    coded = dict(common.coded)
    if any("coded.own" in each for each in own):
        coded["own"] = torch.stack([each.get("coded.own", row) for each in own])
    for number, each in zip(devices, own, strict=True):
        for name, value in _under(each, "coded.").items():
            if name != "own":
                coded[f"{name}.{number}"] = value
    optimizer = common.optimizer if shared else _optimizer(rule, row, own)
    return AdapterState(rows, optimizer, coded)


def _optimizer(rule: Optimizer, row: Tensor, own: Sequence[Memory]) -> OptimizerState:
    """Of each device its own; of who has none a fresh one. Empty if nobody has any."""
    known = [_under(each, _OPTIMIZER) for each in own]
    if not any(known):
        return {}
    fresh = rule.init(row[None])
    return {
        name: torch.cat([each.get(name, value) for each in known]) for name, value in fresh.items()
    }


def round_closed(
    setup: Setup, before: RunState, after: RunState, made: Sequence[int], store: DeviceStore
) -> RunState:
    """The state of the run after a round whose participants came to `after`; what they remember is
    in the store when this returns. `before`: the run's as the round began. Raises StorageError."""
    devices = after.devices or ()
    population = setup.simulation.population
    assert population is not None, "a run of a population"
    known = {name: value.clone() for name, value in before.population.items()}
    known[_BEGAN][list(devices)] = after.round
    sides = []
    memories: dict[int, dict[str, Tensor]] = {device: {} for device in devices}
    for side in _SIDES:
        shared = side == "server" and setup.training.scheme.shared_server
        common, own = _apart(
            getattr(after, side), getattr(before, side).row, devices, made, shared=shared
        )
        sides.append(common)
        for device, memory in own.items():
            memories[device] |= {f"{side}.{name}": value for name, value in memory.items()}
    for place, observed in enumerate(np.stack(astuple(after.observed)).T):
        memories[devices[place]]["observed"] = torch.from_numpy(observed.copy())
    for (device, direction), stream in after.streams.items():
        if device in made:
            memories[device] |= streams_to_tensors({(0, direction): stream})
    if population.keeps:
        table = store.write(before.population[_RECORDS].numpy(), memories)
        known[_RECORDS] = torch.from_numpy(table)
    else:
        sides = [replace(side, coded={}) for side in sides]
    return replace(
        after,
        device=sides[0],
        server=sides[1],
        observed=nothing_observed(),
        streams={},
        devices=(),
        began=None,
        population=known,
    )


def _apart(
    side: AdapterState, row: Tensor, devices: Sequence[int], made: Sequence[int], *, shared: bool
) -> tuple[AdapterState, dict[int, dict[str, Tensor]]]:
    """What all have in common of one side, and what each device remembers of it; `row`: what who
    has no adapters of its own begins with."""
    own: dict[int, dict[str, Tensor]] = {device: {} for device in devices}
    common = AdapterState(side.row if side.row.ndim == 1 else row, {})
    if shared:
        common = replace(common, optimizer=side.optimizer)
    coded = dict(common.coded)
    for name, value in side.coded.items():
        name_of, _, number = name.rpartition(".")
        if name_of:
            if int(number) in made:
                own[int(number)][f"coded.{name_of}"] = value
        elif name != "own":
            coded[name] = value
    for place, device in enumerate(devices):
        if side.row.ndim == 2:
            own[device]["row"] = side.row[place]
        if "own" in side.coded:
            own[device]["coded.own"] = side.coded["own"][place]
        if device in made and not shared:
            own[device] |= {
                f"{_OPTIMIZER}{name}": value[place : place + 1]
                for name, value in side.optimizer.items()
            }
    return replace(common, coded=coded), own


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin so, by the rest of their names."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
