"""What is planned, and what is decided, within which limits; and what memory each device and
the server then need.

Knows no search, no seconds but that micro-batches cost none and computing twice does, no
configuration and no file: `jobs.plan` makes a workload.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from cutlayer.channel.rates import Channel
from cutlayer.errors import ConfigError
from cutlayer.rounds.batching import ServerBatch
from cutlayer.rounds.memory import (
    CODED_ROWS,
    Accounting,
    PartMemory,
    ServerShape,
    server_memory,
    spared_by_ranks,
)
from cutlayer.rounds.schemes import FEDAVG, SFT, SFT_FROZEN, Merging, Scheme, ServerOrder
from cutlayer.rounds.work import WHOLE_ADAPTERS, SharingRules, trained_model
from cutlayer.spec import ActivationPolicy, Device, MiniBatch, MiniBatchPolicy, ModelSpec, Trained

# What is planned, and what is decided.


# one part in 10^9 forgives largest shares such as ten times 0.1
_ROUNDING = 1e-9


@dataclass(frozen=True)
class CodecChoice:
    """A codec with its settings, as the configuration names them, and what it does.

    `up`, `down`: bytes sent over bytes uncompressed, of activations and gradients (the paper's
    beta). `accuracy_loss`: share of the test samples that it costs against no codec; None where
    nobody has measured it.
    """

    codec: str
    settings: Mapping[str, float]
    up: float
    down: float
    accuracy_loss: float | None = None

    def __str__(self) -> str:
        settings = ", ".join(f"{key} {value:.3g}" for key, value in self.settings.items())
        return f"{self.codec} ({settings})" if settings else self.codec


@dataclass(frozen=True)
class Decision:
    """Everything that is chosen. `cuts` and `shares` have a value for each device."""

    scheme: Scheme
    cuts: tuple[int, ...]
    codec: CodecChoice
    policy: MiniBatchPolicy
    rules: SharingRules
    shares: tuple[float, ...]

    @property
    def common_cut(self) -> int | None:
        """The cut of all devices; None where they differ."""
        return self.cuts[0] if len(set(self.cuts)) == 1 else None

    @property
    def shares_passes(self) -> bool:
        """Whether mini-batches of several devices share passes of the server."""
        by_arrival = self.scheme.server is ServerOrder.ARRIVAL and self.scheme.splits
        return by_arrival and self.rules.batching.batch is ServerBatch.ARRIVALS

    def on_even_shares(self) -> "Decision":
        """The same with as much bandwidth for each device."""
        count = len(self.cuts)
        return replace(self, shares=(1.0 / count,) * count)


@dataclass(frozen=True)
class FixedChoices:
    """What a plan takes as it is given, of all that it would choose; None or False: it chooses.

    `scheme`, `downlink`: as the scheme and the rules that are planned for have them. `codec`: there
    is one to choose from. `in_flight` is read where a scheme has a pipeline.
    """

    scheme: bool = False
    cut: int | None = None
    codec: bool = False
    activation_memory: ActivationPolicy | None = None
    micro_batches: int | None = None
    in_flight: int | None = None
    downlink: bool = False
    shares: tuple[float, ...] | None = None

    def keeps(self, decision: Decision) -> bool:
        """Whether a decision of the given scheme, rules and codec has the rest as given."""
        policy = decision.policy
        given = {
            (self.cut, decision.common_cut),
            (self.activation_memory, policy.activation_memory),
            (self.micro_batches, policy.micro_batches),
            (self.shares, decision.shares),
        }
        return all(wanted in (None, own) for wanted, own in given)


NOTHING_FIXED = FixedChoices()


def check_most_shares(most: Sequence[float]) -> None:
    """Raises ConfigError for a largest share of a device outside (0, 1], and for some that sum
    below 1."""
    for share in most:
        if not 0 < share <= 1:
            raise ConfigError(f"a device's largest share is {share}: give more than 0, at most 1")
    together, count = sum(most), len(most)
    if together < 1 - _ROUNDING:
        raise ConfigError(
            f"most_share of {count} devices comes to {together:.3g} of the bandwidth, which"
            f" would leave some of it unused: let each have at least {1 / count:.3g}"
        )


@dataclass(frozen=True)
class PlanLimits:
    """What a plan must keep to, besides each device's memory.

    `least_cut`: blocks that stay on the devices at least, so that activations tell less of the
    data. `most_share`: of each device, of the bandwidth (SFT eq. 36f). `server_busy`: part of a
    round that the server may compute. `per_device_cuts`: whether devices may be cut differently.
    `fixed`: what is not to be chosen. Raises ConfigError for a part outside (0, 1], largest shares
    that sum below 1, and a least cut below 1.
    """

    most_share: tuple[float, ...]
    least_cut: int = 1
    server_busy: float = 1.0
    per_device_cuts: bool = False
    fixed: FixedChoices = NOTHING_FIXED

    def __post_init__(self) -> None:
        check_most_shares(self.most_share)
        if not 0 < self.server_busy <= 1:
            raise ConfigError(f"server_busy is {self.server_busy}: give more than 0, at most 1")
        if self.least_cut < 1:
            raise ConfigError(f"least_cut is {self.least_cut}: a device part has at least 1 block")


@dataclass(frozen=True)
class PlannedServer:
    """The server beside its compute rate.

    `memory_bytes`: None for no limit, without the `reserved_bytes` that its system keeps.
    `codec_bytes`: what it remembers of a device's packets. `power_w`, `idle_power_w`: what it draws
    while it computes and while it waits; None: unknown.
    `block_s`: the least that a block takes in a pass, however few its tokens.
    """

    memory_bytes: int | None = None
    activation_memory: ActivationPolicy = ActivationPolicy.KEEP
    codec_bytes: float = 0.0
    reserved_bytes: int = 0
    power_w: float | None = None
    idle_power_w: float | None = None
    block_s: float = 0.0


@dataclass(frozen=True)
class Prices:
    """What there is to pay: for an hour of the server, its energy included, and for a kilowatt-hour
    of the devices'. Both in one currency, which nobody asks; None: not priced."""

    server_per_hour: float | None = None
    device_per_kwh: float | None = None


@dataclass(frozen=True, eq=False)
class Workload:
    """A training run as a planner sees it: what is given, and nothing that is decided.

    `local_steps[n]` mini-batches like `batch` are device n's in each of `rounds` rounds. `rules`
    are those configured; a plan may change the downlink's. `optimizer_slots`: values that the
    optimiser keeps for each trained one (0 SGD, 1 with momentum, 2 Adam). `radio_power_w`: what a
    device radiates while it sends (None: unknown). `codec_bytes`: what a device remembers of its
    packets. `merging`: whose adapters are merged; `evaluated`: the part of the rounds after the
    first in which the others go up too. `adapter_ratio`: bytes of an adapter that comes up and of
    one that goes down over those of float32, where not all weights are trained; unless they are 1,
    a device remembers two rows of it. A limit on memory that no cut meets is not refused here: a
    planner says so, with what would.
    `ranks`: of each device's adapters, where they are not all those of `model`, which then has the
    largest; `of_rank`: the model with adapters of each of them.
    `samples`: of each device, `cache_bytes`: what a server may keep of their activations, for a
    scheme that keeps them (None: nobody knows how many they are). `warm_rounds`: with SFT, the
    devices' part is trained for so many rounds, then it is frozen (None: it is trained in all).
    Raises ConfigError: no device, counts that differ, a rate that is not positive and finite, a
    batch or a count below 1.
    """

    model: ModelSpec
    devices: tuple[Device, ...]
    batch: MiniBatch
    local_steps: tuple[int, ...]
    rounds: int
    server_flops_per_s: float
    channel: Channel
    rules: SharingRules
    accounting: Accounting
    optimizer_slots: int
    server: PlannedServer = PlannedServer()
    prices: Prices = Prices()
    radio_power_w: float | None = None
    codec_bytes: float = 0.0
    merging: Merging = FEDAVG
    evaluated: float = 1.0
    adapter_ratio: tuple[float, float] = WHOLE_ADAPTERS
    samples: tuple[int, ...] | None = None
    cache_bytes: float = 0.0
    warm_rounds: int | None = None
    ranks: tuple[int, ...] | None = None
    of_rank: Mapping[int, ModelSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_counts()
        for device in self.devices:
            _check_rate(f"{device.name}'s compute rate", device.flops_per_s)
            if device.memory_bytes is not None and device.memory_bytes <= 0:
                raise ConfigError(
                    f"{device.name}'s memory is {device.memory_bytes} bytes: give more than 0, or"
                    " null for no limit"
                )
        _check_rate("the server's compute rate", self.server_flops_per_s)

    def adapter_ratio_of(self, scheme: Scheme) -> tuple[float, float]:
        """Bytes of what a scheme exchanges each round, up and down, over those of float32."""
        return self.adapter_ratio if scheme.trained is Trained.ADAPTERS else WHOLE_ADAPTERS

    def model_of(self, rank: int | None) -> ModelSpec:
        """The model with adapters of this rank (None: of the largest)."""
        return self.model if rank is None else self.of_rank[rank]

    @property
    def own_ranks(self) -> tuple[int | None, ...]:
        """Each device's, as `model_of` takes it."""
        return (None,) * len(self.devices) if self.ranks is None else self.ranks

    @property
    def epoch_rounds(self) -> int:
        """In how many rounds every sample is used once; all of them, if nobody knows."""
        if self.samples is None:
            return self.rounds
        counts = zip(self.samples, self.local_steps, strict=True)
        epochs = (math.ceil(math.ceil(own / self.batch.samples) / steps) for own, steps in counts)
        return max(epochs)

    def sent_again(self, decision: "Decision", cut: int) -> float:
        """The part of the samples that devices send after the first epoch: all, or, to a server
        that keeps activations, what does not fit its cache."""
        scheme, batch = decision.scheme, self.batch
        if not scheme.cached or self.samples is None:
            return 1.0
        one = self.accounting.traffic(self.model, cut, batch, scheme.trained).activation_bytes
        whole = sum(self.samples) * decision.codec.up * one / batch.samples
        return 1.0 - min(1.0, self.cache_bytes / whole)

    def server_floor_s(self, cut: int) -> float:
        """The least that a pass of the server's blocks after `cut` takes [s]."""
        return (self.model.blocks - cut) * self.server.block_s

    def merging_in(self, scheme: Scheme) -> Merging:
        """Whose adapters `scheme` merges. Where devices hold the whole model and one part of it
        alone is merged, all is counted as merged: where the parts meet is nothing that is
        decided."""
        partly = self.merging.device != self.merging.server
        return FEDAVG if partly and not scheme.splits else self.merging

    @cached_property
    def flops_per_s(self) -> Float64[np.ndarray, " device"]:
        """Each device's rate."""
        return np.array([device.flops_per_s for device in self.devices])

    @cached_property
    def steps(self) -> Float64[np.ndarray, " device"]:
        """Each device's local steps, to multiply with."""
        return np.array(self.local_steps, dtype=np.float64)

    def _check_counts(self) -> None:
        if not self.devices:
            raise ConfigError("a plan needs at least 1 device, there are 0")
        for what, count in (
            ("local steps", len(self.local_steps)),
            ("devices in the channel", self.channel.devices),
        ):
            if count != len(self.devices):
                raise ConfigError(f"{count} {what} for {len(self.devices)} devices: give one each")
        least = {
            "rounds": (self.rounds, 1),
            "samples in a mini-batch": (self.batch.samples, 1),
            "tokens in a sample": (self.batch.tokens, 1),
            "a device's local steps": (min(self.local_steps), 1),
            "values that the optimiser keeps": (self.optimizer_slots, 0),
        }
        if self.warm_rounds is not None:
            least["rounds that train the devices' part"] = self.warm_rounds, 1
        for what, (count, bound) in least.items():
            if count < bound:
                raise ConfigError(f"{what}: {count}, which must be at least {bound}")


def _check_rate(what: str, flops_per_s: float) -> None:
    if not 0 < flops_per_s < math.inf:  # NaN is neither
        raise ConfigError(f"{what} is {flops_per_s} FLOP/s: it must be positive and finite")


@dataclass(frozen=True, eq=False)
class RoundKind:
    """Rounds of a run that are alike, without the first: how many, and what each of them is."""

    rounds: int
    workload: Workload
    decision: Decision


def round_kinds(workload: Workload, decision: Decision) -> tuple[RoundKind, ...]:
    """A run's rounds after the first in their order, of one kind, or of two where devices come to
    do less: the server holds their samples, or their part is trained no more. A kind may have no
    round."""
    scheme, rounds = decision.scheme, workload.rounds
    if scheme.cached and workload.samples is not None:
        early = workload.epoch_rounds
        before = replace(workload, samples=None)
        ways = (before, decision), (workload, decision)
    elif scheme == SFT and workload.warm_rounds is not None:
        early = workload.warm_rounds
        own = replace(workload, warm_rounds=None)
        ways = (own, decision), (own, replace(decision, scheme=SFT_FROZEN))
    else:
        return (RoundKind(rounds - 1, workload, decision),)
    early = min(early, rounds)
    return tuple(
        RoundKind(count, *way) for count, way in zip((early - 1, rounds - early), ways, strict=True)
    )


def mean_of(values: Sequence[tuple[int, float]]) -> float:
    """The mean of what so many rounds have each; without any round the first."""
    some = [(rounds, value) for rounds, value in values if rounds] or values[:1]
    if len(some) == 1:
        return some[0][1]
    return sum(rounds * value for rounds, value in some) / sum(rounds for rounds, _ in some)


# What each device and the server need of memory, and which mini-batch policies fit them.


# micro-batches of a pipeline: past these, what overlaps grows no more
_PIPELINED = (2, 4, 8, 16)


def device_need(
    workload: Workload, scheme: Scheme, cut: int, policy: MiniBatchPolicy, rank: int | None = None
) -> PartMemory[float]:
    """What a device holds at the peak of a local step, with adapters of this rank (None: of the
    largest); of schemes that do not split, all."""
    model = trained_model(workload.model_of(rank), scheme, cut)
    need = workload.accounting.memory(
        model,
        cut if scheme.splits else model.blocks,
        workload.batch,
        policy,
        optimizer_slots=workload.optimizer_slots,
        trained=scheme.trained,
    )
    codec = workload.codec_bytes if scheme.splits and scheme.compressed else 0.0
    if workload.adapter_ratio_of(scheme) != WHOLE_ADAPTERS:
        codec += CODED_ROWS * need.adapters
    return replace(need, codec=codec)


def device_needs(workload: Workload, decision: Decision) -> tuple[PartMemory[float], ...]:
    """What each device holds at its peak."""
    kinds = list(zip(decision.cuts, workload.own_ranks, strict=True))
    known = {
        (cut, rank): device_need(workload, decision.scheme, cut, decision.policy, rank)
        for cut, rank in set(kinds)
    }
    return tuple(known[kind] for kind in kinds)


def server_need(
    workload: Workload, scheme: Scheme, cut: int, policy: MiniBatchPolicy
) -> PartMemory[float]:
    """What the server holds at its pass; of schemes that do not split, at the round's end.

    Where devices are cut differently, `cut` is the shallowest.
    """
    server, batch = workload.server, workload.batch
    model = trained_model(workload.model, scheme, cut)
    if not scheme.splits:
        return _merging_need(workload, scheme)
    samples = -(-batch.samples // policy.micro_batches)
    count, together = len(workload.devices), 1
    if scheme.server is ServerOrder.ARRIVAL:
        together = workload.rules.batching.most_together(count, samples * batch.tokens)
    shape = ServerShape(
        devices=count,
        batch=MiniBatch(samples, batch.tokens),
        together=together,
        adapters=1 if scheme.shared_server else None,
    )
    need = server_memory(
        model,
        cut,
        shape,
        optimizer_slots=workload.optimizer_slots,
        activation_memory=server.activation_memory,
        codec_bytes=server.codec_bytes if scheme.compressed else 0.0,
    )
    rows, states = _spared(workload, scheme, cut)
    return replace(need, adapters=need.adapters - rows, optimizer=need.optimizer - states)


def _spared(workload: Workload, scheme: Scheme, cut: int) -> tuple[int, int]:
    """What devices of lower ranks spare the server of rows and of optimiser states [byte]."""
    if workload.ranks is None:
        return 0, 0
    known = {rank: trained_model(model, scheme, cut) for rank, model in workload.of_rank.items()}
    models = [known[rank] for rank in workload.ranks]
    model = trained_model(workload.model, scheme, cut)
    return spared_by_ranks(model, models, cut, workload.optimizer_slots)


def _merging_need(workload: Workload, scheme: Scheme) -> PartMemory[float]:
    """A server that evaluates, and merges what each device has trained of the whole model."""
    own = device_need(workload, scheme, workload.model.blocks, MiniBatchPolicy())
    spared, _ = _spared(workload, scheme, workload.model.blocks)
    rows = (1 + len(workload.devices)) * own.gradients - spared
    nothing = {"optimizer": 0.0, "gradients": 0.0, "activations": 0.0, "input": 0.0, "codec": 0.0}
    return PartMemory(weights=own.weights, adapters=rows, **nothing)


def fits_memory(workload: Workload, decision: Decision) -> bool:
    """Whether every device holds its part, and the server its own."""
    return fits_devices(workload, decision) and fits_server(workload, decision)


def fits_devices(workload: Workload, decision: Decision) -> bool:
    """Whether every device holds its part."""
    return all(
        device.memory_bytes is None or need.total <= device.memory_bytes
        for device, need in zip(workload.devices, device_needs(workload, decision), strict=True)
    )


def fits_server(workload: Workload, decision: Decision) -> bool:
    """Whether the server holds its part and what it keeps for devices."""
    limit, cut = workload.server.memory_bytes, min(decision.cuts)
    if limit is None:
        return True
    return server_need(workload, decision.scheme, cut, decision.policy).total <= limit


@dataclass(frozen=True)
class Shortage:
    """The least that a cut needs, on the device that is shortest of it, or on the server (None), of
    which all devices have enough [byte]."""

    device: int | None
    cut: int
    policy: MiniBatchPolicy
    need: PartMemory[float]
    limit_bytes: int

    @property
    def missing_bytes(self) -> float:
        """By how much it is short of memory."""
        return self.need.total - self.limit_bytes


def fitting_policies(
    workload: Workload, scheme: Scheme, cut: int, fixed: FixedChoices = NOTHING_FIXED
) -> list[MiniBatchPolicy]:
    """The ways that fit every device and the server, and may be the fastest, of those that are left
    to choose.

    One for a scheme without a pipeline: the first that fits, computing nothing twice if possible,
    in as few micro-batches as possible (whole, where the server keeps an order of its own). One
    for each depth of a pipeline.
    """
    memories = _memories(fixed)

    def first(ways: Iterator[MiniBatchPolicy]) -> list[MiniBatchPolicy]:
        return next(([policy] for policy in ways if _fits(workload, scheme, cut, policy)), [])

    if scheme.server is not ServerOrder.ARRIVAL:
        return first(map(MiniBatchPolicy, memories))
    if not scheme.pipelined:
        counts = _plain(workload.batch.samples, fixed)
        return first(MiniBatchPolicy(own, count) for own in memories for count in counts)
    counts = _PIPELINED if fixed.micro_batches is None else (fixed.micro_batches,)
    return [
        policy
        for count in counts
        if count <= workload.batch.samples
        for in_flight in _depths(count, fixed)
        for policy in first(MiniBatchPolicy(own, count, in_flight) for own in memories)
    ]


def shortage(
    workload: Workload, scheme: Scheme, cut: int, fixed: FixedChoices = NOTHING_FIXED
) -> Shortage | None:
    """Who is shortest of memory where nothing fits; None where something does."""
    if fitting_policies(workload, scheme, cut, fixed):
        return None
    whole = scheme.server is not ServerOrder.ARRIVAL
    parts = 1 if whole else _plain(workload.batch.samples, fixed)[-1]
    ways = [MiniBatchPolicy(activation_memory, parts) for activation_memory in _memories(fixed)]
    least = min(ways, key=lambda policy: device_need(workload, scheme, cut, policy).total)
    return shortage_of(workload, scheme, cut, least)


def shortage_of(workload: Workload, scheme: Scheme, cut: int, policy: MiniBatchPolicy) -> Shortage:
    """What the device that is shortest has of what this way of holding needs, or the server
    where devices have enough. One of them is short of it."""
    needs = {
        rank: device_need(workload, scheme, cut, policy, rank) for rank in set(workload.own_ranks)
    }
    room = [
        (device.memory_bytes or float("inf")) - needs[rank].total
        for device, rank in zip(workload.devices, workload.own_ranks, strict=True)
    ]
    device = room.index(min(room))
    need, limit = needs[workload.own_ranks[device]], workload.devices[device].memory_bytes
    most = workload.server.memory_bytes
    if most is not None and (limit is None or need.total <= limit):
        served = server_need(workload, scheme, cut, policy)
        if served.total > most or limit is None:
            return Shortage(None, cut, policy, served, most)
    assert limit is not None
    return Shortage(device, cut, policy, need, limit)


def _fits(workload: Workload, scheme: Scheme, cut: int, policy: MiniBatchPolicy) -> bool:
    """Whether the smallest device of each rank and the server have enough."""
    most = workload.server.memory_bytes
    for rank, least in _least_limits(workload).items():
        if device_need(workload, scheme, cut, policy, rank).total > least:
            return False
    return most is None or server_need(workload, scheme, cut, policy).total <= most


def _least_limits(workload: Workload) -> dict[int | None, int]:
    """The memory of the smallest device of each rank that has a limit."""
    found: dict[int | None, int] = {}
    for device, rank in zip(workload.devices, workload.own_ranks, strict=True):
        if device.memory_bytes is not None:
            found[rank] = min(device.memory_bytes, found.get(rank, device.memory_bytes))
    return found


def least_limit(workload: Workload) -> int | None:
    """The memory of the smallest device; None where no device has a limit."""
    limits = [d.memory_bytes for d in workload.devices if d.memory_bytes is not None]
    return min(limits, default=None)


def _memories(fixed: FixedChoices) -> tuple[ActivationPolicy, ...]:
    """In the order of seconds."""
    own = fixed.activation_memory
    return tuple(ActivationPolicy) if own is None else (own,)


def _plain(samples: int, fixed: FixedChoices) -> Sequence[int]:
    """Micro-batches of a mini-batch, one at a time: the fewest first, a sample each last."""
    if fixed.micro_batches is not None:
        return (fixed.micro_batches,)
    counts = [1]
    while 2 * counts[-1] < samples:
        counts.append(2 * counts[-1])
    return counts if samples == 1 else [*counts, samples]


def _depths(micro_batches: int, fixed: FixedChoices) -> list[int]:
    """How many micro-batches are under way: all, and halves of that down to 2."""
    if fixed.in_flight is not None:
        return [min(fixed.in_flight, micro_batches)]
    depths = [micro_batches]
    while depths[-1] > 2:
        depths.append(depths[-1] // 2)
    return depths
