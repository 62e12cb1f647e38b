"""What a run carries from round to round, and one side's adapters while a round goes on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutlayer.channel.rates import Channel, LinkRates
from cutlayer.codec.adapters import AdapterCodecs
from cutlayer.codec.codec import CodecPair, Streams
from cutlayer.data.partition import BatchPlan
from cutlayer.data.samples import Batch, BatchMaker, Samples
from cutlayer.model.adapted import AdaptedModel
from cutlayer.model.lora import Draws, RowLayout
from cutlayer.model.optimizer import (
    Aggregation,
    Clipped,
    HeadRate,
    Optimizer,
    Schedule,
)
from cutlayer.model.placement import HOST, to_device
from cutlayer.model.ranks import Components, ProductMean, revived
from cutlayer.model.split import DevicePart, ServerPart
from cutlayer.planner.allocation import Allocation, ObservedRound
from cutlayer.rounds.memory import Accounting
from cutlayer.rounds.participants import Population
from cutlayer.rounds.schemes import FEDAVG, SFT_FROZEN, DeviceOrder, Merging, Scheme
from cutlayer.rounds.work import DeviceRates, SharingRules
from cutlayer.spec import ActivationPolicy, Device, ModelSpec, Task

# What a run carries from round to round: adapters, optimiser and codec states, and the amounts on
# which the bandwidth is shared out.


OptimizerState = dict[str, Tensor]


@dataclass(frozen=True)
class AdapterState:
    """One side's adapters, one row, or one for each device where they are not merged; and its
    optimiser state (first axis: device). `coded`: what the ends of coded rows remember, as
    `training.adapter_rows` names it."""

    row: Float[Tensor, " parameter"] | Float[Tensor, "device parameter"]
    optimizer: OptimizerState
    coded: dict[str, Tensor] = field(default_factory=dict)

    def of(self, device: int) -> Float[Tensor, " parameter"]:
        """What a device begins a round with."""
        return self.row if self.row.ndim == 1 else self.row[device]

    def tensors(self, side: str) -> dict[str, Tensor]:
        """Every tensor under a name, for the checkpoint."""
        return {
            f"{side}.row": self.row,
            **{f"{side}.optimizer.{name}": value for name, value in self.optimizer.items()},
            **{f"{side}.coded.{name}": value for name, value in self.coded.items()},
        }

    @staticmethod
    def from_tensors(side: str, tensors: dict[str, Tensor]) -> "AdapterState":
        """The inverse of `tensors`."""
        optimizer, coded = (
            {
                name.removeprefix(prefix): value
                for name, value in tensors.items()
                if name.startswith(prefix)
            }
            for prefix in (f"{side}.optimizer.", f"{side}.coded.")
        )
        return AdapterState(tensors[f"{side}.row"], optimizer, coded)


@dataclass(frozen=True)
class RunState:
    """Everything that decides the next round, seeds and data apart.

    `observed`: the amounts of the last round, or those expected of the first. `streams`: what the
    codecs of all devices remember. `devices`: those that take part in the round, by number in
    ascending order; whatever the state has of each device it has of these, in their order (None:
    all of the run's). `began`: the last round that each of them began before, 0 for none (None: all
    of them the last one). `population`: between the rounds of a population, of which `devices` are
    none, what is known of each of its devices, by name.
    """

    round: int
    virtual_time_s: float
    device: AdapterState
    server: AdapterState
    observed: ObservedRound
    streams: Streams = field(default_factory=dict)
    devices: tuple[int, ...] | None = None
    began: tuple[int, ...] | None = None
    population: dict[str, Tensor] = field(default_factory=dict)


def observed_to_tensors(observed: ObservedRound) -> dict[str, Tensor]:
    """One row a quantity, for the checkpoint."""
    return {"observed": torch.from_numpy(np.stack(astuple(observed)))}


def observed_from_tensors(tensors: dict[str, Tensor]) -> ObservedRound:
    """The inverse of `observed_to_tensors`; other tensors are left out."""
    return ObservedRound(*tensors["observed"].numpy())


# One side's adapters while a round goes on: a row for each device, or one that all share.


@final
class AdapterBank:
    """One side's adapters and optimiser state during a round, on `device`.

    `rows` and the state's tensors have an entry for each of `devices`, in that order; `shared`: one
    entry, which every device reads and steps, one device at a time. `collected`: by place, the
    gradient of the micro-batches since its last step. `own`: what of a row each of them has (None:
    all of it); elsewhere its row is zero.

    With `proximal_mu` a local step's loss has `mu / 2 ||w - w_0||^2` too, w_0 being the row with
    which the round began (`anchor`, where that is another than the state's). Source: FedProx
    (arXiv 1812.06127), eq. (2).

    `consumes`: the optimiser's state is changed in place: whoever gave it needs it no more.
    """

    def __init__(
        self,
        state: AdapterState,
        devices: Sequence[int],
        optimizer: Optimizer,
        *,
        shared: bool,
        device: torch.device,
        proximal_mu: float = 0.0,
        anchor: Tensor | None = None,
        own: Sequence[Components] | None = None,
        consumes: bool = False,
    ) -> None:
        self._rule = optimizer
        self._own = own
        self._place = {device: 0 if shared else place for place, device in enumerate(devices)}
        self._shared = shared
        self._mu = proximal_mu
        row = to_device(state.row, device)
        self.rows = row.expand(1 if shared else len(devices), -1).clone()
        for place in range(len(self.rows) if own else 0):
            self.rows[place] = self._of(place, self.rows[place])
        # one row, since who is held near it is merged
        self.anchor: Tensor | None = None
        if proximal_mu:
            self.anchor = row if anchor is None else to_device(anchor, device)
        # a round that starts without a state starts afresh
        old = state.optimizer or optimizer.init(self.rows)
        self.optimizer = {
            name: to_device(value, HOST if value.ndim == 1 else device)
            for name, value in old.items()
        }
        if not consumes:
            self.optimizer = {name: value.clone() for name, value in self.optimizer.items()}
        self.collected: dict[int, Tensor] = {}

    def gather(self, devices: Sequence[int]) -> Float[Tensor, "group parameter"]:
        """The rows of `devices`, copied."""
        return _rows(self.rows, self._places(devices))

    def row(self, device: int) -> Float[Tensor, " parameter"]:
        """A device's row, not copied."""
        return self.rows[self._place[device]]

    def put(self, devices: Sequence[int], row: Float[Tensor, " parameter"]) -> None:
        """Let `devices` go on from `row`; their optimisers stay as they are."""
        _put(self.rows, self._places(devices), to_device(row, self.rows.device))

    def begin(self, devices: Sequence[int], row: Float[Tensor, " parameter"]) -> None:
        """Let `devices` begin the round with `row`, as it has come to them."""
        self.put(devices, row)
        if self.anchor is not None:
            self.anchor = to_device(row, self.rows.device)

    def collect(self, devices: Sequence[int], gradients: Float[Tensor, "group parameter"]) -> None:
        """Add one micro-batch's gradients to those that the next step of `devices` takes."""
        for place, gradient in zip(self._places(devices), gradients, strict=True):
            self.collected.setdefault(place, torch.zeros_like(gradient)).add_(gradient)

    def step(self, rates: Mapping[int, float]) -> None:
        """Step the rows of devices by their collected gradients, each at its learning rate."""
        for rate in sorted(set(rates.values())):
            self._step([device for device, own in rates.items() if own == rate], rate)

    def _step(self, devices: Sequence[int], learning_rate: float) -> None:
        places = self._places(devices)
        gradients = torch.stack([self.collected.pop(place) for place in places])
        if self.anchor is not None:
            apart = _rows(self.rows, places).sub_(self.anchor)
            for place, far in zip(places, apart if self._own else (), strict=False):
                far.copy_(self._of(place, far))
            gradients = gradients.add_(apart, alpha=self._mu)
        state = {name: _rows(value, places) for name, value in self.optimizer.items()}
        rows, stepped = self._rule.step(_rows(self.rows, places), gradients, state, learning_rate)
        _put(self.rows, places, rows)
        for name, value in stepped.items():
            _put(self.optimizer[name], places, value)

    def renew(self, device: int, row: Float[Tensor, " parameter"]) -> None:
        """Let `device` begin again at `row`, its optimiser afresh, what it collected forgotten."""
        (place,) = self._places((device,))
        self.collected.pop(place, None)
        self.rows[place] = self._of(place, to_device(row, self.rows.device))
        for name, value in self._rule.init(self.rows[place : place + 1]).items():
            self.optimizer[name][place : place + 1] = value

    def _of(self, place: int, row: Tensor) -> Tensor:
        """A row, zero where the device at this place has nothing."""
        return row if self._own is None else self._own[place].put(self._own[place].take(row))

    def _places(self, devices: Sequence[int]) -> list[int]:
        assert not self._shared or len(devices) == 1, "a shared adapter is stepped by one at a time"
        return [self._place[device] for device in devices]


def _rows(bank: Tensor, places: Sequence[int]) -> Tensor:
    """Copies of some rows. Indexing by a list would make an accelerator's host wait."""
    return bank[to_device(torch.tensor(places, dtype=torch.int64), bank.device)]


def _put(bank: Tensor, places: Sequence[int], rows: Tensor) -> None:
    bank[to_device(torch.tensor(places), bank.device)] = rows


# All that a run trains with, put together by the caller: nothing here is looked up or read. The
# trainer holds both sides and the simulation; over a network each end holds its own side.


@dataclass(frozen=True, eq=False)
class Training:
    """What both ends of a run share.

    `schedule`: what the learning rate is multiplied by at each local step. `head_learning_rate`: of
    a trained head, by the same schedule (None: as all else). `clip_norm`: the largest norm of a
    device's gradient in one part of the model (None: any). A mini-batch of `batch_size` samples
    goes in `micro_batches`, at most `in_flight` of them between forward and backward (None: all,
    where the scheme overlaps them); `activation_memory` is how a device holds them meanwhile.
    `classes`: of the head's outputs. `tells_labels`: whether devices say how many samples of each
    class they have. `merging`: whose adapters are merged as a round ends. `warm_rounds`: so many
    rounds the devices' part is trained, then it is frozen (None: as the scheme has it).
    `adapter_codec`: what changes of adapter rows go through (None: rows go whole, as float32).
    `ranks`: of each device's adapters (None: all are the layout's).
    """

    task: Task
    scheme: Scheme
    codecs: CodecPair
    optimizer: Optimizer
    learning_rate: float
    head_learning_rate: float | None
    schedule: Schedule
    clip_norm: float | None
    batch_size: int
    micro_batches: int
    in_flight: int | None
    activation_memory: ActivationPolicy
    classes: int
    seed: int
    tells_labels: bool = False
    merging: Merging = FEDAVG
    warm_rounds: int | None = None
    adapter_codec: AdapterCodecs | None = None
    ranks: tuple[int, ...] | None = None

    def scheme_of(self, round_number: int) -> Scheme:
        """The scheme of round `round_number` (1, 2, ...)."""
        warm = self.warm_rounds is None or round_number <= self.warm_rounds
        return self.scheme if warm else SFT_FROZEN

    def last_change(self, round_number: int) -> int:
        """The last round that opened with other merged adapters of the devices' part than the one
        before it, until this one."""
        if self.scheme_of(max(round_number - 1, 1)).trains_device:
            return round_number
        return 1 + (self.warm_rounds or 0)

    @property
    def micro_batch_samples(self) -> int:
        """The most samples that a device's micro-batch may have."""
        return -(-self.batch_size // self.micro_batches)

    def rate_of(self, round_number: int, step: int, local_steps: int) -> float:
        """The learning rate of a local step, counted as `Schedule.factor` does."""
        return self.learning_rate * self.schedule.factor(round_number, step, local_steps)

    def draws(self, round_number: int, device: int, step: int, samples: Sequence[int]) -> Draws:
        """What the adapters of both sides drop of these samples' values in a local step, counted
        as `DeviceSide.indices` does: the same in whatever micro-batch, pass or process."""
        step_key = f"dropout:{self.seed}:{round_number}:{device}:{step}"
        return Draws(tuple(f"{step_key}:{sample}" for sample in samples))

    def own(self, layout: RowLayout, devices: Sequence[int]) -> tuple[Components, ...] | None:
        """What each of these devices has of a row of this layout; None: all of it."""
        if self.ranks is None:
            return None
        known = {rank: Components(layout, 0, rank) for rank in set(self.ranks)}
        return tuple(known[self.ranks[device]] for device in devices)

    def rule(self, layout: RowLayout) -> Optimizer:
        """How rows of this layout step."""
        rule, head = self.optimizer, layout.head_parameters
        if self.head_learning_rate is not None and head:
            rule = HeadRate(rule, head, self.head_learning_rate / self.learning_rate)
        return rule if self.clip_norm is None else Clipped(rule, self.clip_norm)


@dataclass(frozen=True, eq=False)
class DeviceSide:
    """One device: its part of the model, its samples of `train` in order, its local steps."""

    part: DevicePart
    train: Samples
    batches: BatchMaker
    plan: BatchPlan
    local_steps: int

    @property
    def number(self) -> int:
        """Which device it is: 0, 1, ..."""
        return self.plan.device

    @property
    def samples(self) -> int:
        """How many samples it holds: its weight as adapters are merged."""
        return len(self.plan.samples)

    def indices(self, round_number: int, step: int) -> Int[np.ndarray, " row"]:
        """The samples of local step `step` (0, 1, ...) of round `round_number` (1, 2, ...)."""
        return self.plan.indices((round_number - 1) * self.local_steps + step)

    def batch(self, samples: Int[np.ndarray, " row"]) -> Batch:
        """These samples, as its part takes them."""
        return self.batches.make(self.train, samples)


@dataclass(frozen=True)
class EvaluationRule:
    """When a run is evaluated: each `every` rounds, and before training, in the first round and in
    the last. It ends when for `patience` rounds (None: never) no score was better than the best
    before by more than `min_delta`, in the score's own unit. `rounds`: of the run. `macro_f1`,
    `devices`: whether a round's record has that too, and each device's score."""

    every: int = 1
    patience: int | None = None
    min_delta: float = 0.0
    macro_f1: bool = False
    devices: bool = False
    rounds: int = 0

    def due(self, number: int) -> bool:
        """Whether round `number` is evaluated."""
        return number in (0, 1, self.rounds) or number % self.every == 0


@dataclass(frozen=True)
class CacheLimits:
    """Of what a server keeps of activations. `disk_bytes`: what is held as a round ends;
    `memory_bytes`: of those that were decoded last, so that a packet is not decoded for each of its
    samples."""

    disk_bytes: int
    memory_bytes: int


@dataclass(frozen=True, eq=False)
class ServerSide:
    """The server: both parts of the model, since it hands out the devices' and evaluates, how it
    merges adapters, and the test split.

    `watched`: what rounds are evaluated on, where that is not the test split, which is then
    evaluated at the end alone: a part of it, or a validation split. `cache`: the limits of the
    activations that it keeps, for a scheme that caches them.
    """

    device_part: DevicePart
    part: ServerPart
    aggregation: Aggregation
    test: Samples
    batches: BatchMaker
    watched: Samples | None = None
    evaluation: EvaluationRule = EvaluationRule()
    cache: CacheLimits | None = None

    @property
    def evaluated(self) -> Samples:
        """What rounds are evaluated on."""
        return self.test if self.watched is None else self.watched


@dataclass(frozen=True, eq=False)
class Simulation:
    """What rounds are counted by and put on a clock with: a model of these dimensions, virtual
    devices, a server and their links. `of_rank`: the model with adapters of each rank that devices
    have, where they differ.

    `allocation` gives each round's bandwidth allocation, the same in both directions. `group`
    devices share one pass through a part, and at most `cohort` are summed up one after another;
    `clock` is the wall's. `server_block_s`: the least that a
    block of the server takes in a pass. `model_folder`: where the model lies whose small files go
    with its weights (None: none do). `population`: who takes part in each round, and when it closes
    (None: all, when all have made it).
    """

    model: ModelSpec
    devices: tuple[Device, ...]
    server_flops_per_s: float
    channel: Channel
    allocation: Allocation
    rules: SharingRules
    accounting: Accounting
    group: int
    clock: Callable[[], float]
    server_block_s: float = 0.0
    cohort: int = 50
    model_folder: Path | None = None
    of_rank: Mapping[int, ModelSpec] = field(default_factory=dict)
    population: Population | None = None

    def rates(
        self, links: Sequence[LinkRates], cut: int, devices: Sequence[int] | None = None
    ) -> list[DeviceRates]:
        """How fast each device (None: all), the server after `cut` and the link between them
        are."""
        server, floor_s = self.server_flops_per_s, (self.model.blocks - cut) * self.server_block_s
        numbers = range(len(self.devices)) if devices is None else devices
        return [
            DeviceRates(self.devices[number].flops_per_s, server, link, floor_s)
            for number, link in zip(numbers, links, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Setup:
    """A run in one process: what both sides share, each device's side, the server's, and what takes
    the place of links and clocks."""

    training: Training
    devices: tuple[DeviceSide, ...]
    server: ServerSide
    simulation: Simulation

    def steps_of(self, devices: Sequence[int]) -> int:
        """Local steps of these devices in a round."""
        return sum(self.devices[device].local_steps for device in devices)

    @property
    def parts(self) -> tuple[DevicePart, ServerPart]:
        """Both parts of the model."""
        return self.server.device_part, self.server.part

    def model_of(self, device: int) -> ModelSpec:
        """The model with this device's adapters."""
        ranks = self.training.ranks
        return self.simulation.model if ranks is None else self.simulation.of_rank[ranks[device]]

    def revived(self, part: AdaptedModel, row: Float[Tensor, " parameter"]) -> Tensor:
        """A part's merged row, of which every component can be trained on."""
        if self.training.ranks is None and not isinstance(self.server.aggregation, ProductMean):
            return row
        fresh = to_device(part.initial_row(self.training.seed), row.device)
        return revived(row, fresh, part.layout)

    def rates(
        self, links: Sequence[LinkRates], devices: Sequence[int] | None = None
    ) -> list[DeviceRates]:
        """How fast each device (None: all), the server and the link between them are."""
        return self.simulation.rates(links, self.server.device_part.cut, devices)

    def who_leaves(self, round_number: int, devices: Sequence[int]) -> dict[int, int]:
        """Those of the devices that leave a round, and the local step that they do not finish."""
        population = self.simulation.population
        if population is None:
            return {}
        steps = {n: self.devices[n].local_steps for n in devices}
        drawn = {n: population.leaves(round_number, n, own) for n, own in steps.items()}
        return {n: step for n, step in drawn.items() if step is not None}

    @property
    def ran_on(self) -> tuple[str, str]:
        """What computes the devices' part and the server's, and the numbers of their bases."""
        below, above = (part.adapted.placement.title for part in self.parts)
        return below, above

    @property
    def together(self) -> int:
        """The most devices that share one pass through a part."""
        scheme = self.training.scheme
        in_turn = scheme.devices is DeviceOrder.IN_TURN or scheme.shared_server
        return 1 if in_turn else min(self.simulation.group, self.per_round)

    @property
    def per_round(self) -> int:
        """The most devices that take part in a round."""
        population = self.simulation.population
        return len(self.devices) if population is None else population.per_round
