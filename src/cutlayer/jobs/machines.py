"""The virtual devices and their server, from the configuration's short forms: one value for all or
a list, a preset, a profile of what a machine was measured to reach.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cutlayer.config.choices import ChannelSection, NoCell, SnrSection
from cutlayer.config.machines import DevicesSection, ServerSection
from cutlayer.config.schema import Config, StaticPlanner
from cutlayer.errors import ConfigError, reason
from cutlayer.planner.profile import read_machine
from cutlayer.rounds.participants import (
    AlwaysThere,
    Availability,
    AvailableAtRate,
    Population,
    parsed_availability,
)
from cutlayer.rounds.schemes import DeviceOrder, Scheme
from cutlayer.spec import Base, Device, Task
from cutlayer.units import MIB, MS_PER_S, linear_from_db

_MILLIWATTS = 1000

T = TypeVar("T", float, str, float | None)


def make_devices(section: DevicesSection, task: Task | None = None) -> tuple[Device, ...]:
    """One value a device, each named by its preset or profile, where it has one, and its number.

    `task`: of the model, by which a profile has its rates; None: its slowest.
    Raises ConfigError for a list of another length than the count, and a profile that cannot be.
    """
    if section.profile is not None:
        return _measured_devices(section, section.profile, task)
    count = section.count
    power_w = each("devices.power_w", section.power_w, count)
    flops = each("devices.flops_per_s", section.flops_per_s, count)
    up_db = each("devices.uplink_snr_db", section.uplink_snr_db, count)
    down_db = each("devices.downlink_snr_db", section.downlink_snr_db, count)
    memory, reserved = _memory(section)
    if isinstance(section.flops_per_s, tuple):
        _refuse_spread(section)
    else:
        flops = tuple(
            rate * _spread(section.flops_spread, n, count) for n, rate in enumerate(flops)
        )
    names = section.preset if isinstance(section.preset, tuple) else (section.preset,) * count
    return tuple(
        Device(
            f"{names[n] or 'device'}-{n}",
            flops[n],
            up_db[n],
            down_db[n],
            memory[n],
            reserved[n],
            power_w[n],
        )
        for n in range(count)
    )


def _measured_devices(
    section: DevicesSection, paths: str | tuple[str, ...], task: Task | None
) -> tuple[Device, ...]:
    key, count, base = "devices.profile", section.count, Base(section.base)
    up_db = each("devices.uplink_snr_db", section.uplink_snr_db, count)
    down_db = each("devices.downlink_snr_db", section.downlink_snr_db, count)
    reserved = each("devices.reserved_mib", section.reserved_mib, count)
    power_w = each("devices.power_w", section.power_w, count)
    files = each(key, paths, count)
    known = {path: read_machine(Path(path), key) for path in dict.fromkeys(files)}
    boundless = section.memory_mib is None
    return tuple(
        Device(
            f"{own.name}-{n}",
            own.rate(base, task, key).step_flops_per_s,
            up_db[n],
            down_db[n],
            None if boundless else own.memory_bytes(reserved[n], key),
            0 if boundless else int(reserved[n] * MIB),
            power_w[n] or own.power_w,
            own.idle_power_w,
        )
        for n, own in enumerate(known[path] for path in files)
    )


@dataclass(frozen=True)
class ServerHardware:
    """What the server reaches and has; None where nobody says.

    `block_s`: the least that a block takes in a pass. `memory_bytes` are without those reserved.
    """

    flops_per_s: float
    block_s: float
    memory_bytes: int | None
    reserved_bytes: int
    power_w: float | None
    idle_power_w: float | None


def make_population(config: Config, scheme: Scheme) -> Population | None:
    """Who takes part in each simulated round, and when it closes; None: all, when all have made it.

    Raises ConfigError for settings that cannot be together, and for a trace that cannot be read.
    """
    section, net = config.devices, config.net
    closes = net.quorum is not None and net.deadline_s is not None
    some = takes_some(section)
    if not (some or closes):
        return None
    one_after_another = scheme.devices is DeviceOrder.IN_TURN or scheme.shared_server
    if one_after_another and (closes or section.dropout):
        raise ConfigError(
            f"scheme {scheme.name} hands one device's adapters to the next, so that who misses a"
            " round's end has changed them already: leave out devices.dropout, net.quorum and"
            " net.deadline_s, or choose another scheme"
        )
    if not isinstance(config.adapter.rank, int):
        raise ConfigError(
            f"adapter.rank {config.adapter.rank} gives devices ranks of their own, and so far all"
            " devices take part in each round to its end then: give one rank, or leave out"
            " devices.per_round, availability, dropout and net.quorum"
        )
    personal = config.aggregation.name in ("none", "device", "server")
    if section.state == "fresh" and personal:
        raise ConfigError(
            f"devices.state fresh forgets what aggregation {config.aggregation.name} leaves with"
            " each device: set it to keep"
        )
    if some and isinstance(config.planner, StaticPlanner):
        raise ConfigError(
            "planner static decides the shares of all devices once, and not all of them take part"
            " in a round: set planner to two-timescale or even"
        )
    return Population(
        count=section.count,
        per_round=section.per_round or section.count,
        seed=config.seed,
        keeps=section.state == "keep",
        availability=_availability(section, config.seed),
        dropout=section.dropout,
        quorum=net.quorum if closes else None,
        deadline_s=net.deadline_s if closes else None,
    )


def takes_some(section: DevicesSection) -> bool:
    """Whether not all simulated devices take part in each round, to its end."""
    drawn = section.per_round is not None or section.availability_trace is not None
    return drawn or section.availability < 1 or section.dropout > 0


def _availability(section: DevicesSection, seed: int) -> Availability:
    if section.availability_trace is not None:
        if section.availability < 1:
            raise ConfigError(
                f"devices.availability {section.availability:g} and devices.availability_trace"
                f" {section.availability_trace} both say who is there: give one of them"
            )
        path = Path(section.availability_trace)
        try:
            # a mark at the beginning, as spreadsheets write one, is no part of the text
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            why = reason(error)
            raise ConfigError(f"devices.availability_trace {path} cannot be read: {why}") from error
        return parsed_availability(text, str(path), section.count)
    rate = section.availability
    return AvailableAtRate(rate, seed) if rate < 1 else AlwaysThere()


def radio_power_w(section: ChannelSection) -> float | None:
    """What devices radiate: cells say so."""
    if not isinstance(section, SnrSection) or isinstance(section.cell, NoCell):
        return None
    return linear_from_db(section.cell.device_power_dbm) / _MILLIWATTS


def make_server(section: ServerSection, task: Task | None = None) -> ServerHardware:
    """By its settings, or as it was measured. Raises as `make_devices`."""
    key, reserved = "server.profile", section.reserved_mib
    if section.profile is not None:
        own = read_machine(Path(section.profile), key)
        rate = own.rate(Base(section.base), task, key)
        return ServerHardware(
            rate.step_flops_per_s,
            rate.block_s,
            own.memory_bytes(reserved, key),
            int(reserved * MIB),
            section.power_w or own.power_w,
            own.idle_power_w,
        )
    limit = section.memory_mib
    return ServerHardware(
        section.flops_per_s,
        section.block_ms / MS_PER_S,
        None if limit is None else _left("server", limit, reserved),
        0 if limit is None else int(reserved * MIB),
        section.power_w,
        None,
    )


def _memory(section: DevicesSection) -> tuple[tuple[int | None, ...], tuple[int, ...]]:
    """Each device's memory for training, None without a limit, and what its system keeps [byte]."""
    count = section.count
    if section.memory_mib is None:
        return (None,) * count, (0,) * count
    whole = each("devices.memory_mib", section.memory_mib, count)
    kept = each("devices.reserved_mib", section.reserved_mib, count)
    free = tuple(_left("devices", *mib) for mib in zip(whole, kept, strict=True))
    return free, tuple(int(mib * MIB) for mib in kept)


def _left(section: str, memory_mib: float, reserved_mib: float) -> int:
    """What there is for training [byte]."""
    if reserved_mib >= memory_mib:
        raise ConfigError(
            f"{section}.memory_mib {memory_mib:g} without {section}.reserved_mib {reserved_mib:g}"
            " leaves nothing to train in: raise the one or lower the other"
        )
    return int((memory_mib - reserved_mib) * MIB)


def _refuse_spread(section: DevicesSection) -> None:
    """A list says each rate; a spread of 0 is what presets set, and the default what nobody set."""
    if section.flops_spread not in (0.0, DevicesSection.model_fields["flops_spread"].default):
        raise ConfigError(
            f"devices.flops_spread {section.flops_spread} is not read with a list of"
            " devices.flops_per_s: leave one of them out"
        )


def each(key: str, value: T | tuple[T, ...], count: int) -> tuple[T, ...]:
    """A value a device, from one for all or a list. Raises ConfigError for another length."""
    if not isinstance(value, tuple):
        return (value,) * count
    if len(value) != count:
        raise ConfigError(f"{key} lists {len(value)} values for devices.count {count}: give each")
    return value


def _spread(spread: float, device: int, count: int) -> float:
    """A factor from 1 - spread (first device) to 1 + spread (last)."""
    return 1.0 if count == 1 else 1.0 - spread + 2.0 * spread * device / (count - 1)
