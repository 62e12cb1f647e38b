"""A configuration made into what a planner needs, without its data and without a weight.

Imports no torch: only a model that has not been described before needs it.
"""

from dataclasses import dataclass

from cutlayer.config.machines import DevicesSection
from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError
from cutlayer.jobs.build import (
    check_steps,
    count_micro_batches,
    fixed_shares,
    make_accounting,
    make_adapter_codec,
    make_channel,
    make_codecs,
    make_rules,
    optimizer_slots,
)
from cutlayer.jobs.machines import (
    ServerHardware,
    make_devices,
    make_server,
    radio_power_w,
    takes_some,
)
from cutlayer.jobs.model_spec import planned_model
from cutlayer.jobs.ranks import device_ranks
from cutlayer.jobs.scheme import make_merging, make_scheme, warm_rounds
from cutlayer.planner.decision import CodecChoice, Decision, PlannedServer, Prices, Workload
from cutlayer.planner.forecast import Forecast, forecast_rounds
from cutlayer.rounds.costs import ACTIVATION_BYTES
from cutlayer.rounds.memory import PAPER_ACCOUNTING
from cutlayer.rounds.schemes import SFT
from cutlayer.rounds.work import WHOLE_ADAPTERS
from cutlayer.spec import ActivationPolicy, MiniBatch, MiniBatchPolicy, ModelSpec
from cutlayer.units import MIB

_OF_POPULATIONS = ("per_round", "state", "availability", "availability_trace", "dropout")


def make_workload(config: Config) -> Workload:
    """What `config` gives to a planner.

    Samples are taken to be dealt evenly, whatever `partition` says: which device gets how many is
    known only once the data are read. Texts are taken to be as long as `data.max_tokens` allows.
    Raises CutlayerError for a model, link or number of local steps that cannot be.
    """
    steps, planned = _local_steps(config), planned_model(config)
    devices = make_devices(config.devices, planned.task)
    channel, rules = make_channel(config, devices), make_rules(config)
    hardware = make_server(config.server, planned.task)
    width = planned.model.width
    codecs = make_codecs(config.codec, packets=config.training.rounds * max(steps))
    accounting = make_accounting(config, planned.checkpoint)
    adapters = make_adapter_codec(config.adapter_codec, SFT)
    # the paper's equations have no such term
    codec_bytes = 0 if accounting.name == PAPER_ACCOUNTING.name else codecs.device_bytes(width)

    def model_of(rank: int) -> ModelSpec:
        adapter = config.adapter.model_copy(update={"rank": rank})
        return planned_model(config.model_copy(update={"adapter": adapter})).model

    ranks = device_ranks(config, devices, planned.tokens, codec_bytes, accounting, model_of)
    return Workload(
        model=planned.model,
        devices=devices,
        batch=MiniBatch(config.training.batch_size, planned.tokens),
        local_steps=steps,
        rounds=config.training.rounds,
        server_flops_per_s=hardware.flops_per_s,
        channel=channel,
        rules=rules,
        accounting=accounting,
        optimizer_slots=optimizer_slots(config.optimizer),
        server=_server(config, hardware, codecs.server_bytes(width)),
        prices=Prices(config.server.price_per_hour, config.devices.price_per_kwh),
        radio_power_w=radio_power_w(config.channel),
        codec_bytes=codec_bytes,
        merging=make_merging(config.aggregation, make_scheme(config)),
        evaluated=_evaluated(config.evaluation.every, config.training.rounds),
        adapter_ratio=WHOLE_ADAPTERS if adapters is None else adapters.expected_ratio,
        samples=_samples(config),
        cache_bytes=config.cache.limit_mib * MIB,
        ranks=None if ranks is None else ranks.ranks,
        of_rank={} if ranks is None else ranks.models,
        warm_rounds=warm_rounds(config),
    )


def of_a_round(config: Config) -> Config:
    """The configuration of the devices that take part in a round, as if there were no others.

    Raises ConfigError where devices differ by a list: which of them a round draws is not known.
    """
    section, all_there = config.devices, DevicesSection()
    count, per_round = section.count, section.per_round or section.count
    if count > per_round:
        for name, part in (("devices", section), ("channel", config.channel)):
            for key, value in part:
                if isinstance(value, tuple) and len(value) == count:
                    raise ConfigError(
                        f"{name}.{key} gives each of {count} devices its own value, and a plan"
                        f" does not know which {per_round} of them a round draws: give one value"
                        f" for all, or plan {per_round} devices, without devices.per_round"
                    )
    samples = config.data.train_samples
    own = {name: getattr(all_there, name) for name in _OF_POPULATIONS}
    return config.model_copy(
        update={
            "devices": section.model_copy(update={**own, "count": per_round}),
            "data": config.data.model_copy(
                update={"train_samples": samples and max(samples * per_round // count, 1)}
            ),
            "net": config.net.model_copy(update={"quorum": None, "deadline_s": None}),
        }
    )


def _samples(config: Config) -> tuple[int, ...] | None:
    """Each device's, dealt evenly; None: they are left to the data."""
    samples, count = config.data.train_samples, config.devices.count
    if samples is None or samples < count:
        return None
    return tuple(samples // count + (number < samples % count) for number in range(count))


def _evaluated(every: int, rounds: int) -> float:
    """The part of the rounds after the first that is evaluated, the last one always."""
    if rounds == 1:
        return 1.0
    due = rounds // every - (every == 1) + (rounds % every > 0)
    return due / (rounds - 1)


def _server(config: Config, hardware: ServerHardware, codec_bytes: float) -> PlannedServer:
    return PlannedServer(
        memory_bytes=hardware.memory_bytes,
        activation_memory=ActivationPolicy(config.server.activation_memory),
        codec_bytes=codec_bytes,
        reserved_bytes=hardware.reserved_bytes,
        power_w=hardware.power_w,
        idle_power_w=hardware.idle_power_w,
        block_s=hardware.block_s,
    )


@dataclass(frozen=True)
class Compression:
    """Bytes sent over bytes uncompressed, each way (the paper's beta)."""

    up: float
    down: float


def expected_compression(config: Config, workload: Workload) -> Compression:
    """What the configured codec is expected to make of a mini-batch of the workload.

    From `Codec.expected_bytes`, packet whole: what a target asks for where the codec follows one
    in bits, else what independent Laplace values take. A basis that is sent once is left out.
    Raises ConfigError for settings of the codec that exclude each other.
    """
    packets = workload.rounds * max(workload.local_steps)
    pair = make_codecs(config.codec, packets)
    batch = workload.batch
    shape = (batch.samples, batch.tokens, workload.model.width)
    whole = ACTIVATION_BYTES * shape[0] * shape[1] * shape[2]
    return Compression(
        pair.up.expected_bytes(shape) / whole, pair.down.expected_bytes(shape) / whole
    )


def _local_steps(config: Config) -> tuple[int, ...]:
    training, count = config.training, config.devices.count
    if training.local_epochs is None:
        check_steps(training)
        assert training.local_steps is not None
        return (training.local_steps,) * count
    samples = config.data.train_samples
    if samples is None:
        raise ConfigError(
            "training.local_epochs counts samples, and data.train_samples null leaves them to the"
            " data, which a plan does not read: give their number, or training.local_steps"
        )
    each, more = divmod(samples, count)
    if each == 0:
        raise ConfigError(f"data.train_samples {samples} are too few for {count} devices")
    dealt = (each + (n < more) for n in range(count))
    return tuple(training.local_epochs * -(-samples // training.batch_size) for samples in dealt)


_SETTINGS = {
    "best": ("target_bits_up", "target_bits_down"),
    "paper": ("keep_ratio", "levels"),
    "paper-rans": ("keep_ratio", "levels"),
}


def configured_codec(config: Config, workload: Workload) -> CodecChoice:
    """The configured codec, with what it is expected to send."""
    sent, section = expected_compression(config, workload), config.codec
    settings = {key: float(getattr(section, key)) for key in _SETTINGS.get(section.name, ())}
    return CodecChoice(section.name, settings, sent.up, sent.down)


def configured_decision(config: Config, workload: Workload, codec: CodecChoice) -> Decision:
    """The decision that the configuration makes itself; shares that are found or drawn are taken to
    be even."""
    scheme, training = make_scheme(config), config.training
    count, parts = len(workload.devices), count_micro_batches(training, scheme)
    in_flight = min(training.in_flight or parts, parts) if scheme.pipelined else 1
    policy = MiniBatchPolicy(ActivationPolicy(config.devices.activation_memory), parts, in_flight)
    cuts = (config.model.cut if scheme.splits else 1,) * count
    shares = fixed_shares(config, count).value
    return Decision(scheme, cuts, codec, policy, workload.rules, shares)


def forecast_as_configured(config: Config) -> Forecast:
    """What the configuration comes to as it is, whether it fits or not; of a population, by the
    devices of a round. Raises as `make_workload` and `of_a_round` do."""
    config = of_a_round(config) if takes_some(config.devices) else config
    workload = make_workload(config)
    decision = configured_decision(config, workload, configured_codec(config, workload))
    return forecast_rounds(workload, decision, workload.channel.mean_curves())
