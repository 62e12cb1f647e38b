"""Each device's rank, where they differ: as listed, or as large as its memory takes.

What a device of rank r computes, sends and holds is that of the model with adapters of rank r,
which is counted once a rank. Imports no torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cutlayer.config.schema import AveragingSection, Config
from cutlayer.errors import ConfigError
from cutlayer.jobs.build import (
    count_micro_batches,
    make_adapter_codec,
    optimizer_slots,
)
from cutlayer.jobs.scheme import make_scheme
from cutlayer.rounds.memory import CODED_ROWS, Accounting
from cutlayer.rounds.schemes import DeviceOrder, Scheme
from cutlayer.rounds.work import trained_model
from cutlayer.spec import ActivationPolicy, Device, MiniBatch, MiniBatchPolicy, ModelSpec


@dataclass(frozen=True)
class DeviceRanks:
    """Of each device, and the model with adapters of each of these ranks."""

    ranks: tuple[int, ...]
    models: Mapping[int, ModelSpec]


def device_ranks(
    config: Config,
    devices: Sequence[Device],
    tokens: int,
    codec_bytes: float,
    accounting: Accounting,
    model_of: Callable[[int], ModelSpec],
) -> DeviceRanks | None:
    """The devices' ranks, if they are not all the same; what cannot be `check_ranks` has refused.

    By memory: of 1, 2, 4, ... and `adapter.most_rank` the largest with which a device holds its
    local step at the configured cut, by the memory model; 1 where none fits, which is refused where
    memory is checked. A device without a limit has the largest. `tokens`: of a sample at most;
    `codec_bytes`: what a device remembers of activations' packets.
    """
    rank, models = config.adapter.rank, dict[int, ModelSpec]()
    if isinstance(rank, tuple):
        ranks = tuple(rank[n % len(rank)] for n in range(len(devices)))
    elif rank == "memory":
        models = {choice: model_of(choice) for choice in rank_choices(config.adapter.most_rank)}
        needs = {
            choice: _need_bytes(config, tokens, codec_bytes, accounting, model)
            for choice, model in models.items()
        }
        ranks = tuple(_largest(needs, device.memory_bytes) for device in devices)
    else:
        return None
    if set(ranks) == {config.adapter.largest_rank}:
        return None
    return DeviceRanks(ranks, {own: models.get(own) or model_of(own) for own in sorted(set(ranks))})


def rank_choices(most: int) -> tuple[int, ...]:
    """The ranks that devices may have by memory: 1, 2, 4, ... and the largest."""
    return (*(1 << power for power in range(most.bit_length()) if 1 << power < most), most)


def _largest(needs: Mapping[int, float], limit: int | None) -> int:
    fitting = [rank for rank, need in needs.items() if limit is None or need <= limit]
    return max(fitting, default=1)


def _need_bytes(
    config: Config, tokens: int, codec_bytes: float, accounting: Accounting, model: ModelSpec
) -> float:
    scheme, cut = make_scheme(config), config.model.cut
    micro_batches = count_micro_batches(config.training, scheme)
    in_flight = config.training.in_flight or micro_batches
    policy = MiniBatchPolicy(
        ActivationPolicy(config.devices.activation_memory),
        micro_batches,
        in_flight if scheme.pipelined else 1,
    )
    need = accounting.memory(
        trained_model(model, scheme, cut),
        cut if scheme.splits else model.blocks,
        MiniBatch(config.training.batch_size, tokens),
        policy,
        optimizer_slots=optimizer_slots(config.optimizer),
        trained=scheme.trained,
    )
    coded = make_adapter_codec(config.adapter_codec, scheme) is not None
    remembered = codec_bytes if scheme.splits and scheme.compressed else 0.0
    return need.total + remembered + (CODED_ROWS * need.adapters if coded else 0.0)


def check_ranks(config: Config, scheme: Scheme, *, dealt: bool = True) -> None:
    """Raises ConfigError for ranks that differ where they cannot, and for a list that is longer
    than the devices are many. `dealt` False: devices are machines of their own."""
    adapter, count, section = config.adapter, config.devices.count, config.aggregation
    if not dealt and isinstance(section, AveragingSection) and section.merge != "zero-padding":
        raise ConfigError(
            f"aggregation.merge {section.merge}: over a network adapters are merged by zero-padding"
            " alone; leave it out, or train in one process"
        )
    if isinstance(adapter.rank, int):
        return
    given = "memory" if adapter.rank == "memory" else f"{list(adapter.rank)}"
    if not dealt:
        raise ConfigError(
            f"adapter.rank {given}: over a network all devices have one rank; give one, or train"
            " in one process"
        )
    if isinstance(adapter.rank, tuple) and len(adapter.rank) > count:
        raise ConfigError(
            f"adapter.rank lists {len(adapter.rank)} ranks for devices.count {count}: list at most"
            " one each"
        )
    if adapter.rank == "memory" and config.devices.memory_mib is None:
        raise ConfigError(
            "adapter.rank memory, but devices have no limit: give devices.memory_mib, or a rank"
        )
    if adapter.rank_pattern:
        raise ConfigError(
            f"adapter.rank {given} is each device's, and adapter.rank_pattern of some layers: leave"
            " one of them out"
        )
    if scheme.devices is DeviceOrder.IN_TURN or scheme.shared_server:
        raise ConfigError(
            f"adapter.rank {given}: with scheme {scheme.name} devices step the same adapter one"
            " after another, which has one rank; give one, or choose sft or fl-lora"
        )
