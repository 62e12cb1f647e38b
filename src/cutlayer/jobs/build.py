"""The names of a configuration made into objects: codec, channel, devices, allocation."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cutlayer.channel.cell import SCENARIOS, Radio, distances_in_cell, drop_devices
from cutlayer.channel.fading import Fading, GaussMarkov, NoFading, Rayleigh, Rician, SnrChannel
from cutlayer.channel.rates import Channel, ConstantPower, ConstantSnr
from cutlayer.channel.traces import Trace, TraceChannel, read_trace
from cutlayer.codec import adapters
from cutlayer.codec.codec import Codec, CodecPair
from cutlayer.codec.dead_zone import DeadZone
from cutlayer.codec.entropy import EntropyCoder, FixedWidth, Golomb
from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.codec.kernels.native import load_kernels
from cutlayer.codec.memories import Delta, ErrorFeedback
from cutlayer.codec.pipeline import Hadamard, LearnedBasis, TopK
from cutlayer.codec.presets import best, fast, none, paper, paper_rans
from cutlayer.codec.quantisers import (
    Float8,
    Integer,
    Quantiser,
    RelativeStep,
    StepRule,
    StochasticLevels,
    TargetBits,
    TargetCosine,
)
from cutlayer.codec.references import References
from cutlayer.codec.staged import StagedCodec
from cutlayer.codec.two_way import TwoWay
from cutlayer.config.choices import (
    AdapterCodecSection,
    BasisTransform,
    BestAdapterCodec,
    BestCodec,
    CodecSection,
    DeadZoneQuantiser,
    FadingSection,
    FastCodec,
    Float8Quantiser,
    GaussMarkovFading,
    HadamardTransform,
    Int8AdapterCodec,
    IntegerQuantiser,
    LevelsQuantiser,
    NoAdapterCodec,
    NoCell,
    NoCodec,
    NoTopK,
    NoTransform,
    PaperCodec,
    PaperRansCodec,
    QuantiseSection,
    RayleighFading,
    RicianFading,
    SnrSection,
    StagesCodec,
    StagesSection,
    TracesSection,
    TransformSection,
    UmaCell,
    UmiCell,
)
from cutlayer.config.choices import NoFading as NoFadingSection
from cutlayer.config.machines import ServerSection
from cutlayer.config.schema import (
    Config,
    EvenPlanner,
    FixedPlanner,
    PlannerSection,
    PluginPlanner,
)
from cutlayer.config.section import ALLOCATIONS, CHANNELS, CODECS, PluginSection
from cutlayer.config.training import (
    AdamWOptimizer,
    AdapterSection,
    OptimizerSection,
    SgdOptimizer,
    TrainingSection,
)
from cutlayer.data.partition import BatchPlan
from cutlayer.errors import ConfigError
from cutlayer.jobs.machines import each
from cutlayer.jobs.plugins import plugged
from cutlayer.model.described import AdapterSpec
from cutlayer.planner.allocation import Allocation, FixedAllocation, Shares, even_allocation
from cutlayer.planner.decision import check_most_shares
from cutlayer.rounds.batching import ServerBatch, ServerBatching
from cutlayer.rounds.costs import SentWeights
from cutlayer.rounds.memory import ACCOUNTINGS, PHYSICAL_ACCOUNTING, Accounting
from cutlayer.rounds.schemes import Scheme, ServerOrder
from cutlayer.rounds.work import Duplex, Sharing, SharingRules
from cutlayer.spec import ActivationPolicy, Base, Device, Task, Trained
from cutlayer.units import MS_PER_S

# The codec section of a configuration made into a pair of codecs.


def make_codecs(section: CodecSection, packets: int, threads: int = 1) -> CodecPair:
    """The codecs of both directions, for streams of so many packets.

    Raises ConfigError for settings that exclude each other.
    """
    pair, kernels = _pair(section, packets), load_kernels(threads)
    return CodecPair(_on(pair.up, kernels), _on(pair.down, kernels))


def make_adapter_codec(
    section: AdapterCodecSection, scheme: Scheme, threads: int = 1
) -> adapters.AdapterCodecs | None:
    """What changes of adapters go through; None: they go whole, as all weights do."""
    if scheme.trained is Trained.WEIGHTS:
        return None
    match section:
        case NoAdapterCodec():
            return None
        case Int8AdapterCodec():
            up = down = adapters.int8()
        case BestAdapterCodec():
            up = adapters.best(section.target_bits_up)
            down = adapters.best(section.target_bits_down)
    kernels = load_kernels(threads)
    return adapters.AdapterCodecs(replace(up, kernels=kernels), replace(down, kernels=kernels))


def _pair(section: CodecSection, packets: int) -> CodecPair:
    match section:
        case NoCodec():
            return none()
        case PaperCodec():
            return paper(section.keep_ratio, section.levels)
        case PaperRansCodec():
            return paper_rans(section.keep_ratio, section.levels)
        case FastCodec():
            return fast()
        case BestCodec():
            up = _goal(section.target_bits_up, section.target_cosine_up)
            down = _goal(section.target_bits_down, section.target_cosine_down)
            return best(up, down, section.basis_share, packets, section.reference_rows)
        case StagesCodec():
            key, back = "codec.down", section.down
            if back is None:
                key, back = "codec.up", section.up
            return CodecPair(_staged("codec.up", section.up, packets), _staged(key, back, packets))
        case PluginSection():
            return CodecPair(*(_plugged(section, way, packets) for way in ("up", "down")))


def _plugged(section: PluginSection, direction: str, packets: int) -> Codec:
    of_the_run = {"direction": direction, "packets": packets}
    return plugged("codec", section, Codec, of_the_run, group=CODECS)  # type: ignore[type-abstract]


def _on(codec: Codec, kernels: Kernels) -> Codec:
    """The codec with these loops, on whose threads the bytes do not depend."""
    match codec:
        case StagedCodec():
            return replace(codec, kernels=kernels)
        case ErrorFeedback() | Delta() | References():
            return replace(codec, inner=_on(codec.inner, kernels))
        case _:
            return codec


def _goal(bits: float, cosine: float | None) -> StepRule:
    return TargetBits(bits) if cosine is None else TargetCosine(cosine)


def _staged(key: str, section: StagesSection, packets: int) -> Codec:
    sparsify = section.sparsify
    codec = StagedCodec(
        _quantiser(key, section.quantise),
        _entropy(section),
        centre=section.centre,
        transform=_transform(section.transform, packets),
        sparsify=None if isinstance(sparsify, NoTopK) else TopK(sparsify.keep_ratio, sparsify.name),
    )
    match section.memory:
        case "none":
            return codec
        case "error-feedback":
            return ErrorFeedback(codec)
        case "delta":
            return Delta(codec)


def _quantiser(key: str, section: QuantiseSection) -> Quantiser:
    match section:
        case LevelsQuantiser():
            return StochasticLevels(section.levels)
        case DeadZoneQuantiser():
            return DeadZone(_rule(key, section), section.rounding)
        case IntegerQuantiser():
            return Integer(section.bits)
        case Float8Quantiser():
            return Float8()


def _rule(key: str, section: DeadZoneQuantiser) -> StepRule:
    rules: list[StepRule] = []
    if section.step is not None:
        rules.append(RelativeStep(section.step))
    if section.target_bits is not None:
        rules.append(TargetBits(section.target_bits))
    if section.target_cosine is not None:
        rules.append(TargetCosine(section.target_cosine))
    if len(rules) != 1:
        raise ConfigError(
            f"{key}: quantise dead-zone with {len(rules)} of step, target_bits, target_cosine: give"
            " one"
        )
    return rules[0]


def _transform(section: TransformSection, packets: int) -> Hadamard | LearnedBasis | None:
    match section:
        case NoTransform():
            return None
        case HadamardTransform():
            return Hadamard()
        case BasisTransform():
            return LearnedBasis(section.share, packets=packets)


def _entropy(section: StagesSection) -> EntropyCoder:
    match section.entropy:
        case "raw":
            return FixedWidth()
        case "golomb":
            return Golomb()
        case "two-way":
            return TwoWay()


# The channel section made into a channel, and the link section into the timeline's rules.


_SHARING = {"static": Sharing.STATIC, "in-turn": Sharing.IN_TURN, "shared": Sharing.SHARED}


def make_rules(config: Config) -> SharingRules:
    """How the timeline shares links and server. Raises ConfigError where they exclude each
    other."""
    link = config.link
    return SharingRules(
        server_workers=config.server.workers,
        uplink=_SHARING[link.uplink],
        downlink=_SHARING[link.downlink],
        duplex=Duplex(link.duplex),
        batching=make_batching(config.server),
    )


def make_batching(section: ServerSection) -> ServerBatching:
    """Which mini-batches that wait at the server share a pass."""
    return ServerBatching(
        ServerBatch(section.batch), section.batch_tokens, section.coalesce_ms / MS_PER_S
    )


def make_accounting(config: Config, checkpoint: Base = Base.FLOAT32) -> Accounting:
    """How FLOPs, traffic and memory are counted, of a server that keeps what it is told to.

    `checkpoint`: the numbers of the model's file. The paper sends weights as they are held.
    """
    named, have = ACCOUNTINGS[config.cost.accounting], config.devices.have_weights
    if have or named is PHYSICAL_ACCOUNTING:
        named = replace(named, weights=SentWeights(checkpoint, have))
    return named.on_server(ActivationPolicy(config.server.activation_memory))


def optimizer_slots(section: OptimizerSection) -> int:
    """Values that the optimiser keeps for each trained one."""
    match section:
        case AdamWOptimizer():
            return 2
        case SgdOptimizer():
            return 1 if section.momentum else 0


def make_channel(config: Config, devices: Sequence[Device]) -> Channel:
    """Each device's rates in every round. Raises ConfigError for traces that cannot be read, or
    settings that cannot be together."""
    section = config.channel
    match section:
        case TracesSection():
            return _traces(section, len(devices))
        case SnrSection():
            return _snr(section, config, devices)
        case PluginSection():
            of_the_run = {
                "count": len(devices),
                "uplink_snr_db": tuple(device.uplink_snr_db for device in devices),
                "downlink_snr_db": tuple(device.downlink_snr_db for device in devices),
                "seed": config.seed,
            }
            return plugged("channel", section, Channel, of_the_run, group=CHANNELS)  # type: ignore[type-abstract]


def _snr(section: SnrSection, config: Config, devices: Sequence[Device]) -> SnrChannel:
    if isinstance(section.cell, NoCell):
        up = np.array([device.uplink_snr_db for device in devices])
        down = np.array([device.downlink_snr_db for device in devices])
    else:
        up, down = _cell(section.cell, section.bandwidth_hz, len(devices), config.seed)
    return SnrChannel(
        section.bandwidth_hz,
        up,
        down,
        uplink_law=ConstantPower() if section.rate == "constant-power" else ConstantSnr(),
        fading=_fading(section.fading),
        reciprocal=config.link.duplex == "half",
        seed=config.seed,
    )


def _fading(section: FadingSection) -> Fading:
    match section:
        case NoFadingSection():
            return NoFading()
        case RayleighFading():
            return Rayleigh()
        case RicianFading():
            return Rician(section.k_db)
        case GaussMarkovFading():
            return GaussMarkov(section.correlation, section.k_db)


def _cell(
    section: UmiCell | UmaCell, bandwidth_hz: float, devices: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Uplink and downlink ratios of devices dropped in a cell [dB]."""
    if not section.nearest_m < section.farthest_m:
        raise ConfigError(
            f"channel.cell.nearest_m {section.nearest_m:g} is not below channel.cell.farthest_m"
            f" {section.farthest_m:g}: lower the one or raise the other"
        )
    radio = Radio(
        bandwidth_hz=bandwidth_hz,
        carrier_ghz=section.carrier_ghz,
        device_power_dbm=section.device_power_dbm,
        server_power_dbm=section.server_power_dbm,
        device_noise_figure_db=section.device_noise_db,
        server_noise_figure_db=section.server_noise_db,
    )
    distances = distances_in_cell(devices, section.nearest_m, section.farthest_m, seed)
    drop = drop_devices(SCENARIOS[section.name], distances, radio, seed)
    return drop.uplink_snr_db, drop.downlink_snr_db


def _traces(section: TracesSection, devices: int) -> TraceChannel:
    up = _each("channel.uplink", section.uplink, devices)
    down = _each("channel.downlink", section.downlink or section.uplink, devices)
    return TraceChannel(up, down, section.window_s)


def _each(key: str, paths: tuple[str, ...], devices: int) -> tuple[Trace, ...]:
    if len(paths) not in (1, devices):
        raise ConfigError(f"{key} lists {len(paths)} files for {devices} devices: one, or one each")
    traces = [read_trace(Path(path)) for path in paths]
    return tuple(traces) if len(traces) == devices else tuple(traces * devices)


# The local steps of a round. Imports no torch.


def local_steps(section: TrainingSection, plan: BatchPlan) -> int:
    """Mini-batches that a device trains on in a round. Raises ConfigError if nothing says."""
    if section.local_epochs is not None:
        return section.local_epochs * plan.steps_per_epoch
    check_steps(section)
    assert section.local_steps is not None
    return section.local_steps


def check_steps(section: TrainingSection) -> None:
    """Raises ConfigError if nothing says how many local steps there are."""
    if section.local_steps is None and section.local_epochs is None:
        raise ConfigError("give training.local_steps or training.local_epochs: both are null")


# The bandwidth allocation that a configuration gives, and the bounds that it sets to one found.
#
# Knows which settings exclude each other; imports no torch.


def fixed_shares(config: Config, devices: int) -> FixedAllocation:
    """The shares that the configuration gives, else even ones; the channel checks that they fit.

    Raises ConfigError for another number of them than of devices, or where the planner's shares
    would carry nothing up, or given ones nothing at all.
    """
    planner, link = config.planner, config.link
    if isinstance(planner, FixedPlanner):
        if len(planner.shares) != devices:
            raise ConfigError(
                f"planner.shares lists {len(planner.shares)} shares for devices.count {devices}:"
                " give each device its own, or set planner to even"
            )
        if "static" not in (link.uplink, link.downlink):
            raise ConfigError(
                f"planner.shares lists {len(planner.shares)} shares, but with link.uplink"
                f" {link.uplink} and link.downlink {link.downlink} each transfer has all of the"
                " bandwidth: set one of them to static, or planner to even"
            )
        return FixedAllocation(planner.shares)
    if not isinstance(planner, EvenPlanner) and link.uplink != "static":
        raise ConfigError(
            f"planner {planner.name} allocates the bandwidth, but with link.uplink {link.uplink}"
            " each transfer has all of it: set link.uplink to static, or planner to even"
        )
    return even_allocation(devices)


def most_shares(section: PlannerSection, devices: int) -> Shares:
    """Each device's largest share. Raises ConfigError for a list of another length, or where they
    leave some of the bandwidth unused."""
    most = each("planner.most_share", section.most_share, devices)
    check_most_shares(most)
    return most


def plugged_allocation(config: Config, section: PluginPlanner) -> Allocation:
    """Another package's allocation. Raises ConfigError for what is none, or cannot be made."""
    of_the_run = {
        "count": config.devices.count,
        "rules": make_rules(config),
        "most_share": most_shares(section, config.devices.count),
        "seed": config.seed,
    }
    return plugged("planner", section, Allocation, of_the_run, group=ALLOCATIONS)  # type: ignore[type-abstract]


# The micro-batches of a run, as its scheme can take them. Imports no torch.


# micro-batches where a scheme overlaps them and nobody says how many
_OVERLAPPING = 4


def count_micro_batches(training: TrainingSection, scheme: Scheme) -> int:
    """How many a mini-batch goes through in. Raises ConfigError for what the scheme cannot do."""
    if training.in_flight is not None and not scheme.pipelined:
        raise ConfigError(
            f"training.in_flight {training.in_flight} is for sft-overlap: {scheme.name} takes one"
            " micro-batch after another"
        )
    usual = min(_OVERLAPPING, training.batch_size) if scheme.pipelined else 1
    count = training.micro_batches or usual
    if count > training.batch_size:
        raise ConfigError(
            f"training.micro_batches {count} of training.batch_size {training.batch_size}: a"
            " micro-batch needs a sample"
        )
    if training.in_flight is not None and training.in_flight > count:
        raise ConfigError(
            f"training.in_flight {training.in_flight} of {count} micro-batches: lower it, or raise"
            " training.micro_batches"
        )
    if count > 1 and scheme.server is not ServerOrder.ARRIVAL:
        raise ConfigError(
            f"training.micro_batches {count}: the server of {scheme.name} takes whole mini-batches"
            " in an order of its own; leave it at 1"
        )
    return count


# What is trained. Imports no torch.


def make_adapter(section: AdapterSection, task: Task) -> AdapterSpec:
    """The adapters of a model for a task; unless said, a head is trained where it is a
    classifier's. A target that is a name alone is a list of it."""
    targets, name = section.targets, r"(?!all$)[\w.-]+"
    if isinstance(targets, str) and re.fullmatch(name, targets):
        targets = (targets,)
    head = task != "causal-lm" if section.head is None else section.head
    return AdapterSpec(
        section.largest_rank,
        section.alpha,
        targets,
        section.patch_embedding,
        head,
        layers=section.layers,
        rank_pattern=tuple(section.rank_pattern.items()),
        alpha_pattern=tuple(section.alpha_pattern.items()),
        rslora=section.rslora,
        dropout=section.dropout,
    )


def start_folder(section: AdapterSection) -> Path | None:
    """The folder of the adapter that a run starts from, if it starts from one: of a run directory,
    that of its last round. Raises ConfigError where there is none."""
    if section.start_from is None:
        return None
    path = Path(section.start_from).expanduser()
    for folder in (path, path / "adapter"):
        if (folder / "adapter_config.json").is_file():
            return folder
    raise ConfigError(
        f"adapter.start_from {section.start_from} is no folder of an adapter and no run that has"
        " one: there is no adapter_config.json in it"
    )
