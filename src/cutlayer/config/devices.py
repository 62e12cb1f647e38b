"""The virtual devices, from the configuration's short forms."""

from cutlayer.config.schema import DevicesSection, TrainingSection
from cutlayer.data.batches import BatchPlan
from cutlayer.errors import ConfigError
from cutlayer.spec import Device
from cutlayer.units import MIB


def make_devices(section: DevicesSection) -> tuple[Device, ...]:
    """One value a device, each named by its preset, where it has one, and its number.

    Raises ConfigError for a list of another length than the count.
    """
    count = section.count
    flops = each("devices.flops_per_s", section.flops_per_s, count)
    up_db = each("devices.uplink_snr_db", section.uplink_snr_db, count)
    down_db = each("devices.downlink_snr_db", section.downlink_snr_db, count)
    memory = (
        (None,) * count
        if section.memory_mib is None
        else tuple(int(mib * MIB) for mib in each("devices.memory_mib", section.memory_mib, count))
    )
    if isinstance(section.flops_per_s, tuple):
        _refuse_spread(section)
    else:
        flops = tuple(
            rate * _spread(section.flops_spread, n, count) for n, rate in enumerate(flops)
        )
    names = section.preset if isinstance(section.preset, tuple) else (section.preset,) * count
    return tuple(
        Device(f"{names[n] or 'device'}-{n}", flops[n], up_db[n], down_db[n], memory[n])
        for n in range(count)
    )


def _refuse_spread(section: DevicesSection) -> None:
    """A list says each rate; a spread of 0 is what presets set, and the default what nobody set."""
    if section.flops_spread not in (0.0, DevicesSection.model_fields["flops_spread"].default):
        raise ConfigError(
            f"devices.flops_spread {section.flops_spread} is not read with a list of"
            " devices.flops_per_s: leave one of them out"
        )


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


def each(key: str, value: float | tuple[float, ...], count: int) -> tuple[float, ...]:
    """A value a device, from one for all or a list. Raises ConfigError for another length."""
    if not isinstance(value, tuple):
        return (value,) * count
    if len(value) != count:
        raise ConfigError(f"{key} lists {len(value)} values for devices.count {count}: give each")
    return value


def _spread(spread: float, device: int, count: int) -> float:
    """A factor from 1 - spread (first device) to 1 + spread (last)."""
    return 1.0 if count == 1 else 1.0 - spread + 2.0 * spread * device / (count - 1)
