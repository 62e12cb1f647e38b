"""A configuration made into what a planner needs, without its data and without a weight.

Imports no torch: only a model that has not been described before needs it.
"""

from dataclasses import dataclass

from cutlayer.config.codec import make_codecs
from cutlayer.config.devices import check_steps, make_devices
from cutlayer.config.link import make_channel, make_rules
from cutlayer.config.model_spec import planned_model
from cutlayer.config.schema import AdamWOptimizer, Config, OptimizerSection, SgdOptimizer
from cutlayer.cost.accounting import ACCOUNTINGS
from cutlayer.cost.traffic import ACTIVATION_BYTES
from cutlayer.errors import ConfigError
from cutlayer.planner.workload import Workload
from cutlayer.spec import MiniBatch


def make_workload(config: Config) -> Workload:
    """What `config` gives to a planner.

    Samples are taken to be dealt evenly, whatever `partition` says: which device gets how many is
    known only once the data are read. Texts are taken to be as long as `data.max_tokens` allows.
    Raises CutlayerError for a model, link or number of local steps that cannot be.
    """
    devices = make_devices(config.devices)
    steps = _local_steps(config)
    channel, rules = make_channel(config, devices), make_rules(config)
    planned = planned_model(config)
    return Workload(
        model=planned.model,
        devices=devices,
        batch=MiniBatch(config.training.batch_size, planned.tokens),
        local_steps=steps,
        rounds=config.training.rounds,
        server_flops_per_s=config.server.flops_per_s,
        channel=channel,
        rules=rules,
        accounting=ACCOUNTINGS[config.cost.accounting],
        optimizer_slots=optimizer_slots(config.optimizer),
    )


def optimizer_slots(section: OptimizerSection) -> int:
    """Values that the optimiser keeps for each trained one."""
    match section:
        case AdamWOptimizer():
            return 2
        case SgdOptimizer():
            return 1 if section.momentum else 0


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
    return tuple(training.local_epochs * -(-held // training.batch_size) for held in dealt)
