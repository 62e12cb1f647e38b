"""A configuration made into what trains: names become objects, which are checked and loaded.

Finds mistakes in the order in which they are cheapest to find. What is trained with it, where, and
what becomes of it, is the caller's.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cutlayer.channel.rates import Channel
from cutlayer.codec.presets import none
from cutlayer.config.schema import (
    AggregationSection,
    AveragingSection,
    Config,
    EvenPlanner,
    FixedPlanner,
    KrumAggregation,
    MedianAggregation,
    NormClippedAggregation,
    PluginPlanner,
    RandomPlanner,
    StaticPlanner,
    TrimmedMeanAggregation,
    TwoTimescalePlanner,
)
from cutlayer.config.section import AGGREGATIONS, PluginSection
from cutlayer.config.training import (
    AdamWOptimizer,
    ConstantSchedule,
    CosineSchedule,
    DecaySchedule,
    EvaluationSection,
    LinearSchedule,
    OptimizerSection,
    ScheduleSection,
    SgdOptimizer,
)
from cutlayer.data.find import FoundAsset, find_model
from cutlayer.data.partition import BatchPlan, PreparedData
from cutlayer.errors import ConfigError
from cutlayer.jobs.build import (
    count_micro_batches,
    fixed_shares,
    local_steps,
    make_accounting,
    make_adapter,
    make_adapter_codec,
    make_channel,
    make_codecs,
    make_rules,
    most_shares,
    optimizer_slots,
    plugged_allocation,
    start_folder,
)
from cutlayer.jobs.dataset import prepare_data
from cutlayer.jobs.machines import make_devices, make_population, make_server
from cutlayer.jobs.model_spec import based, model_request
from cutlayer.jobs.plugins import plugged
from cutlayer.jobs.ranks import check_ranks, device_ranks
from cutlayer.jobs.scheme import make_merging, make_scheme, settled, warm_rounds
from cutlayer.model.base import check_base
from cutlayer.model.describe import count_model, image_tokens
from cutlayer.model.described import AdapterSpec, check_documents
from cutlayer.model.load import NOTHING, load_device_part, load_server_part
from cutlayer.model.optimizer import (
    AdamW,
    Aggregation,
    FedAvg,
    Optimizer,
    RoundDecay,
    Schedule,
    Sgd,
    WarmUp,
    WarmUpDown,
)
from cutlayer.model.peft_format import check_slots, read_adapter
from cutlayer.model.placement import Accelerators, Placement, device_named, repeat_sums
from cutlayer.model.ranks import ProductMean
from cutlayer.model.robust import Krum, Median, NormClipped, TrimmedMean
from cutlayer.model.split import DevicePart
from cutlayer.planner.allocation import (
    Allocation,
    FixedAllocation,
    RandomAllocation,
    TwoTimescaleAllocation,
    best_shares,
)
from cutlayer.planner.decision import check_most_shares
from cutlayer.rounds.memory import PartMemory, ServerShape, server_memory
from cutlayer.rounds.schemes import Merging, Scheme, ServerOrder
from cutlayer.rounds.work import trained_model
from cutlayer.spec import (
    ActivationPolicy,
    Base,
    Device,
    MiniBatch,
    ModelSpec,
    Task,
    Trained,
)
from cutlayer.training.expected import expected_round, initial_state
from cutlayer.training.memory import Memory, device_needs, measure_memory
from cutlayer.training.state import (
    CacheLimits,
    DeviceSide,
    EvaluationRule,
    ServerSide,
    Setup,
    Simulation,
    Training,
)
from cutlayer.units import MIB, format_bytes

_LOG = logging.getLogger(__name__)

_REMEDY = {
    True: "raise training.micro_batches, set devices.activation_memory to recompute, or lower"
    " model.cut or training.batch_size",
    False: "this scheme trains the whole model on every device; choose one that splits it, lower"
    " training.batch_size, or set devices.memory_mib to null",
}


@dataclass(frozen=True, eq=False)
class Job:
    """A configuration with its names resolved, checked and loaded; ready to train."""

    config: Config
    found: FoundAsset
    prepared: PreparedData
    adapter: AdapterSpec
    setup: Setup
    memory: Memory


def use_torch(config: Config) -> None:
    """Torch's threads as configured, and on CUDA sums that repeat, for the whole process: of
    commands, not of what they call."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    repeat_sums()


def prepare(config: Config, *, dealt: bool = True) -> Job:
    """Find and check everything a run needs, in the order in which mistakes are cheapest to find.

    `dealt` False: devices have samples of their own, those of the training split are not needed.

    Raises CutlayerError for a model, data set, cut, partition or memory limit that cannot be.
    """
    config = settled(config)
    devices, channel, shares = _network(config)
    scheme = make_scheme(config)
    check_ranks(config, scheme, dealt=dealt)
    population = make_population(config, scheme) if dealt else None
    micro_batches = count_micro_batches(config.training, scheme)
    placements = _placements(config, dealt=dealt)
    found = find_model(config.model.name)
    _LOG.info(f"model {config.model.name}: from {found.source}, {found.path}")
    prepared = prepare_data(config, found.path, dealt=dealt)
    adapter = make_adapter(config.adapter, prepared.task)
    _check_head_rate(config, adapter)
    classes = len(prepared.data.class_names)
    numbers = str(placements[0].dtype).removeprefix("torch.")
    request = replace(model_request(config, found.path, prepared.task, classes), numbers=numbers)

    def model_of(rank: int) -> ModelSpec:
        own = replace(request, adapter=replace(request.adapter, rank=rank))
        counted = based(replace(count_model(own, found.path), name=config.model.name), config)
        return trained_model(counted, scheme, config.model.cut)

    model = model_of(request.adapter.rank)
    if not scheme.trains_device:
        adapter = _above(config, adapter, model.blocks)
    _check_server(config, _least_server_need(config, scheme, model), "without any mini-batch")
    server = _server(config, scheme, found.path, prepared, adapter, model.blocks, placements)
    if config.data.packing == "documents":
        adapted = server.part.adapted
        check_documents(adapted.model.config.model_type, adapted.documents_by)
    sides = _devices(config, server.device_part, prepared)
    _check_warmup(config, sides)
    hardware = make_server(config.server, prepared.task)
    packets = config.training.rounds * max(device.local_steps for device in sides)
    training = make_training(
        config,
        scheme,
        prepared.task,
        model.classes,
        micro_batches=micro_batches,
        rounds=config.training.rounds,
        packets=packets,
    )
    accounting = make_accounting(config)
    images = prepared.task == "image-classification"
    tokens = image_tokens(found.path, config.data.image_size) if images else config.data.max_tokens
    codec_bytes = training.codecs.device_bytes(model.width)
    ranks = device_ranks(config, devices, tokens, codec_bytes, accounting, model_of)
    if ranks is not None:
        training = replace(training, ranks=ranks.ranks)
        _LOG.info(f"ranks of the devices' adapters: {', '.join(map(str, ranks.ranks))}")
    setup = Setup(
        training=training,
        devices=sides,
        server=server,
        simulation=Simulation(
            model=model,
            devices=make_devices(config.devices, prepared.task),
            server_flops_per_s=hardware.flops_per_s,
            channel=channel,
            allocation=shares,
            rules=make_rules(config),
            accounting=accounting,
            group=config.server.group if dealt and scheme.trained is Trained.ADAPTERS else 1,
            clock=time.monotonic,
            server_block_s=hardware.block_s,
            cohort=config.engine.cohort,
            model_folder=found.path,
            of_rank={} if ranks is None else ranks.models,
            population=population,
        ),
    )
    simulation = replace(setup.simulation, allocation=make_allocation(config, setup))
    setup = replace(setup, simulation=simulation)
    setup, memory = _within_memory(config, setup)
    return Job(config, found, prepared, adapter, setup, memory)


def _within_memory(config: Config, setup: Setup) -> tuple[Setup, Memory]:
    """The run with as many devices in a pass as fit, and what it then takes. Raises ConfigError for
    a device or a server that is too small."""
    memory = measure_memory(setup, initial_state(setup, ()))
    needs = device_needs(setup, memory)
    _check_memory(setup, needs)
    memory = replace(memory, device=max(needs, key=lambda need: need.total))
    together = _arriving(setup, memory)
    fitting = memory.fitting(setup.together, make_server(config.server).memory_bytes)
    if fitting < setup.together:
        group = max(together, fitting)
        setup = replace(setup, simulation=replace(setup.simulation, group=group))
    memory = memory.with_passes_of(max(together, setup.together))
    _check_server(config, memory.server.total, f"with {together} of the mini-batches in a pass")
    return setup, memory


def make_training(
    config: Config,
    scheme: Scheme,
    task: Task,
    classes: int,
    *,
    micro_batches: int,
    rounds: int,
    packets: int,
) -> Training:
    """What both ends share; `rounds`: of the run; `packets`: of the longest stream, for codecs that
    plan for it."""
    codecs = make_codecs(config.codec, packets, config.threads or 1)
    merging = make_merging(config.aggregation, scheme)
    return Training(
        task=task,
        scheme=scheme,
        # a scheme that does not compress sends what it sends as it is
        codecs=codecs if scheme.compressed else none(),
        optimizer=make_optimizer(config.optimizer),
        learning_rate=config.optimizer.learning_rate,
        head_learning_rate=config.optimizer.head_learning_rate,
        schedule=make_schedule(config.optimizer.schedule, rounds),
        clip_norm=config.optimizer.clip_norm,
        batch_size=config.training.batch_size,
        micro_batches=micro_batches,
        in_flight=config.training.in_flight,
        activation_memory=ActivationPolicy(config.devices.activation_memory),
        classes=classes,
        seed=config.seed,
        tells_labels=_tells_labels(config, merging, task),
        merging=merging,
        warm_rounds=warm_rounds(config),
        adapter_codec=make_adapter_codec(config.adapter_codec, scheme, config.threads or 1),
    )


def _server(
    config: Config,
    scheme: Scheme,
    model: Path,
    prepared: PreparedData,
    adapter: AdapterSpec,
    blocks: int,
    placements: tuple[Placement, Placement],
) -> ServerSide:
    # where nothing is split, the parts make one model wherever they meet
    cut = config.model.cut if scheme.splits else min(config.model.cut, blocks - 1)
    part = (model, prepared.task, cut, adapter)
    classes, (below, above) = len(prepared.data.class_names), placements
    folder = start_folder(config.adapter)
    start = NOTHING if folder is None else read_adapter(folder, adapter)
    size = config.data.image_size
    device_part = load_device_part(
        *part,
        classes=classes,
        image_size=size,
        placement=below,
        trained=scheme.trained,
        start=start,
    )
    server_part = load_server_part(
        *part,
        classes=classes,
        image_size=size,
        placement=above,
        trained=scheme.trained,
        activation_memory=ActivationPolicy(config.server.activation_memory),
        label_smoothing=config.training.label_smoothing,
        start=start,
    )
    slots = [own.adapted.layout.slots for own in (device_part, server_part)]
    if folder is not None:
        check_slots(folder, start, (*slots[0], *slots[1]))
    sides = zip(slots, ("a device", "the server"), (scheme.trains_device, True), strict=True)
    for own, side, trained in sides:
        if trained and not own:
            raise ConfigError(
                f"with model.cut {cut}, adapter.layers and adapter.targets leave {side} nothing to"
                " train: give blocks on both sides of the cut adapters, or move model.cut"
            )
    return ServerSide(
        device_part,
        server_part,
        make_aggregation(config.aggregation, config.engine.cohort),
        prepared.data.test,
        prepared.batches,
        prepared.watched,
        make_evaluation(config.evaluation, config.training.rounds),
        make_cache(config, scheme),
    )


def _above(config: Config, adapter: AdapterSpec, blocks: int) -> AdapterSpec:
    """The adapters of the server's part alone. Raises ConfigError where there would be none."""
    cut = config.model.cut
    if cut >= blocks:
        return adapter  # whoever makes the cut says so
    layers = tuple(at for at in adapter.layers or range(blocks) if at >= cut)
    if not layers:
        raise ConfigError(
            f"with model.cut {cut} and the devices' part frozen, adapter.layers leave the server"
            " nothing to train: give its blocks adapters, or move model.cut"
        )
    return replace(adapter, layers=layers, patch_embedding=False)


def _placements(config: Config, *, dealt: bool) -> tuple[Placement, Placement]:
    """Of the devices' part and of the server's. Where devices are machines of their own, the server
    has their part beside its own, for evaluation. Raises ConfigError: no such device here."""
    seen = Accelerators.seen()
    above = device_named(config.server.device, "server.device", seen)
    below = device_named(config.devices.device, "devices.device", seen) if dealt else above
    bases = config.devices.base, config.server.base
    for base in bases:
        check_base(Base(base))
    # what is not split is trained by the devices, all of it
    served = bases[make_scheme(config).splits]
    return Placement(below, Base(bases[0])), Placement(above, Base(served))


def _devices(config: Config, part: DevicePart, prepared: PreparedData) -> tuple[DeviceSide, ...]:
    """Each with its samples in order, and its local steps."""
    size, train, batches = config.training.batch_size, prepared.data.train, prepared.batches
    plans = [BatchPlan(own, size, config.seed, n) for n, own in enumerate(prepared.parts)]
    return tuple(
        DeviceSide(part, train, batches, plan, local_steps(config.training, plan)) for plan in plans
    )


def _network(config: Config) -> tuple[tuple[Device, ...], Channel, FixedAllocation]:
    """The devices, their channel and their shares of it; that they cannot be is found here."""
    devices = make_devices(config.devices)
    channel, shares = make_channel(config, devices), fixed_shares(config, len(devices))
    channel.rates(1, 0.0, shares.value)
    return devices, channel, shares


def _arriving(setup: Setup, memory: Memory) -> int:
    """Mini-batches that share a pass because they arrive together."""
    scheme, served = setup.training.scheme, memory.served
    if served is None or scheme.server is not ServerOrder.ARRIVAL:
        return 1
    batch, batching = served.shape.batch, setup.simulation.rules.batching
    return batching.most_together(setup.per_round, batch.samples * batch.tokens)


def _tells_labels(config: Config, merging: Merging, task: Task) -> bool:
    """Whether each device's score is wanted, and a device's labels are the run's classes."""
    return task != "causal-lm" and ("devices" in config.evaluation.figures or merging.personal)


def make_optimizer(section: OptimizerSection) -> Optimizer:
    """How adapters step."""
    match section:
        case SgdOptimizer():
            return Sgd(section.momentum, section.weight_decay)
        case AdamWOptimizer():
            first, second = section.betas
            return AdamW((first, second), section.eps, section.weight_decay)


def make_schedule(section: ScheduleSection, rounds: int) -> Schedule:
    """What the learning rate is multiplied by, in a run of so many rounds."""
    match section:
        case DecaySchedule():
            return RoundDecay(section.factor)
        case ConstantSchedule():
            return WarmUp(section.warmup_steps)
        case LinearSchedule() | CosineSchedule():
            cosine = isinstance(section, CosineSchedule)
            return WarmUpDown(rounds, cosine, section.warmup_steps, section.end_fraction)


def _check_head_rate(config: Config, adapter: AdapterSpec) -> None:
    """Raises ConfigError for a rate that nothing is trained with."""
    rate = config.optimizer.head_learning_rate
    if rate is not None and not adapter.head:
        raise ConfigError(
            f"optimizer.head_learning_rate {rate:g}, but no head is trained (adapter.head; a"
            " language model's never is): leave it out"
        )


def _check_warmup(config: Config, sides: tuple[DeviceSide, ...]) -> None:
    """Raises ConfigError for a learning rate that no step has."""
    schedule, rounds = config.optimizer.schedule, config.training.rounds
    if isinstance(schedule, DecaySchedule):
        return
    warmup = schedule.warmup_steps
    steps = min(side.local_steps for side in sides)
    if warmup >= rounds * steps:
        raise ConfigError(
            f"optimizer.schedule.warmup_steps {warmup}, but a device takes {rounds * steps} steps"
            f" ({rounds} rounds of {steps}): its learning rate would never be reached; lower it, or"
            " raise training.rounds"
        )


def make_evaluation(section: EvaluationSection, rounds: int) -> EvaluationRule:
    """When a run of so many rounds is evaluated, and ends."""
    return EvaluationRule(
        section.every,
        section.patience,
        section.min_delta,
        macro_f1="macro-f1" in section.figures,
        devices="devices" in section.figures,
        rounds=rounds,
    )


def make_cache(config: Config, scheme: Scheme) -> CacheLimits | None:
    """The limits of what the server keeps of activations, if it keeps them."""
    if not scheme.cached:
        return None
    section = config.cache
    return CacheLimits(round(section.limit_mib * MIB), round(section.memory_mib * MIB))


def make_aggregation(section: AggregationSection, cohort: int) -> Aggregation:
    """How adapters are merged; a sum, by cohorts of at most so many devices."""
    match section:
        case PluginSection():
            return plugged("aggregation", section, Aggregation, {}, group=AGGREGATIONS)  # type: ignore[type-abstract]
        case AveragingSection(merge="product"):
            return ProductMean()
        case MedianAggregation():
            return Median()
        case TrimmedMeanAggregation(trim=trim):
            return TrimmedMean(trim)
        case NormClippedAggregation(most_norm=most):
            return NormClipped(most)
        case KrumAggregation(hostile=hostile):
            return Krum(hostile)
        case _:  # what is merged, is merged so
            return FedAvg(cohort)


def _check_memory(setup: Setup, needs: Sequence[PartMemory[int]]) -> None:
    short = [
        (n, device.memory_bytes, device.reserved_bytes, need.total)
        for n, (device, need) in enumerate(zip(setup.simulation.devices, needs, strict=True))
        if device.memory_bytes is not None and device.memory_bytes < need.total
    ]
    if short:
        number, limit, reserved, need = short[0]
        less = f" without {format_bytes(reserved)} of devices.reserved_mib" if reserved else ""
        raise ConfigError(
            f"device {number} has {format_bytes(limit)} (devices.memory_mib{less}), training needs"
            f" {format_bytes(need)}, short by {format_bytes(need - limit)}:"
            f" {_REMEDY[setup.training.scheme.splits]}"
        )


def _least_server_need(config: Config, scheme: Scheme, model: ModelSpec) -> float:
    """What the server holds before anything comes: known before a weight is read."""
    if not scheme.splits or config.model.cut >= model.blocks:
        return 0.0  # it holds little, or loading it says why it cannot be
    count = config.devices.per_round or config.devices.count
    shape = ServerShape(count, MiniBatch(1, 1), together=0)
    return server_memory(
        model, config.model.cut, shape, optimizer_slots=optimizer_slots(config.optimizer)
    ).total


def _check_server(config: Config, need_bytes: float, how: str) -> None:
    own = make_server(config.server)
    limit, reserved = own.memory_bytes, own.reserved_bytes
    if limit is not None and limit < need_bytes:
        less = f" without {format_bytes(reserved)} of server.reserved_mib" if reserved else ""
        section = config.server
        checkpoint = "set server.activation_memory to checkpoint, or "
        raise ConfigError(
            f"the server has {format_bytes(limit)} (server.memory_mib{less}), training needs"
            f" {format_bytes(need_bytes)} {how}, short by"
            f" {format_bytes(need_bytes - limit)}:"
            f" {checkpoint if section.activation_memory == 'keep' else ''}lower"
            f" {'server.batch_tokens, ' if section.batch == 'arrivals' else ''}"
            "training.batch_size, adapter.rank or devices.count"
        )


# The planner section made into an allocation: who has which share of the bandwidth in each round.
#
# Imports torch, for what the first round is expected to take; how shares are found is the
# planner's.


def make_allocation(config: Config, setup: Setup) -> Allocation:
    """What the planner makes of a run whose shares are fixed so far.

    `static` decides on the channel's mean and on what the first round is expected to take. Raises
    ConfigError for shares that cannot be.
    """
    section, devices, simulation = config.planner, len(setup.devices), setup.simulation
    match section:
        case EvenPlanner() | FixedPlanner():
            return simulation.allocation
        case RandomPlanner():
            return RandomAllocation(devices, config.seed)
        case StaticPlanner():
            mean, most = simulation.channel.mean_curves(), most_shares(section, devices)
            return FixedAllocation(best_shares(expected_round(setup), mean, simulation.rules, most))
        case TwoTimescalePlanner():
            most = most_shares(section, devices)
            # of those that may send least, a round's must have all of the bandwidth too
            check_most_shares(sorted(most)[: setup.per_round])
            return TwoTimescaleAllocation(simulation.rules, most)
        case PluginPlanner():
            return plugged_allocation(config, section)
