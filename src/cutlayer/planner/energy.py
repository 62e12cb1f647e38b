"""What a plan takes in joules and in money: power times seconds, where somebody knows the power.

Knows forecasts, powers and prices. Of the radio it counts what is radiated, which is less than what
an amplifier takes; receiving and the rest of the radio are in a device's power, if it was measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cutlayer.planner.decision import RoundKind, round_kinds
from cutlayer.planner.estimate import Amounts, amounts_of
from cutlayer.planner.forecast import Forecast
from cutlayer.rounds.schemes import DeviceOrder, Place

_S_PER_HOUR = 3600.0
_J_PER_KWH = 3.6e6


@dataclass(frozen=True)
class DeviceEnergy:
    """A device's energy in a round [J]: while it computes, while it waits or sends, and radiated;
    None where nobody knows the power."""

    compute_j: float | None
    idle_j: float | None
    radio_j: float | None

    @property
    def total_j(self) -> float | None:
        """What is known of it; None where what computing takes is not."""
        if self.compute_j is None:
            return None
        return self.compute_j + (self.idle_j or 0.0) + (self.radio_j or 0.0)


@dataclass(frozen=True)
class PlanEnergy:
    """Of a round after the first: each device's energy and the server's [J]; of all rounds the sums
    [J] and what they cost. None where a power or a price is not known."""

    devices: tuple[DeviceEnergy, ...]
    server_j: float | None
    all_devices_j: float | None
    all_server_j: float | None
    devices_cost: float | None
    server_cost: float | None


def plan_energy(forecast: Forecast) -> PlanEnergy:
    """By what the workload says that devices and server draw, and what energy and time cost."""
    prices = forecast.workload.prices
    begin = round_kinds(forecast.workload, forecast.decision)[0]
    begin = replace(begin, rounds=1, decision=forecast.decision)
    kinds = [(begin, forecast.first), *forecast.by_kind]
    devices = [_devices(kind, seen.delay_s) for kind, seen in kinds]
    servers = [_server_j(forecast, seen.delay_s) for _, seen in kinds]
    rounds = [kind.rounds for kind, _ in kinds]
    all_devices_j = _all_rounds(rounds, [_sum(one) for one in devices])
    hour, kwh = prices.server_per_hour, prices.device_per_kwh
    known = None not in (all_devices_j, kwh)
    return PlanEnergy(
        devices=devices[1 if forecast.usual is forecast.early else -1],
        server_j=servers[1 if forecast.usual is forecast.early else -1],
        all_devices_j=all_devices_j,
        all_server_j=_all_rounds(rounds, servers),
        devices_cost=(all_devices_j or 0.0) * (kwh or 0.0) / _J_PER_KWH if known else None,
        server_cost=None if hour is None else hour * forecast.training_s / _S_PER_HOUR,
    )


def _devices(kind: RoundKind, delay_s: float) -> tuple[DeviceEnergy, ...]:
    """A round of so many seconds."""
    radio_power_w = kind.workload.radio_power_w
    amounts = amounts_of(kind.workload, kind.decision)
    compute_s = amounts.local_steps * amounts.device_s
    send_s = _send_s(kind, amounts)
    return tuple(
        DeviceEnergy(
            compute_j=_joules(device.power_w, float(compute_s[n])),
            idle_j=_joules(device.idle_power_w, max(delay_s - float(compute_s[n]), 0.0)),
            radio_j=_joules(radio_power_w, float(send_s[n])),
        )
        for n, device in enumerate(kind.workload.devices)
    )


def _send_s(kind: RoundKind, amounts: Amounts) -> np.ndarray:
    """Seconds that each device sends in a round, at the channel's mean rate."""
    decision = kind.decision
    bits = amounts.local_steps * amounts.up_bits + amounts.adapter_bits
    in_turn = decision.scheme.devices is DeviceOrder.IN_TURN
    shares = np.array(decision.shares)
    if in_turn or decision.rules.whole_bandwidth(Place.UPLINK):
        shares = np.ones_like(shares)
    rates = kind.workload.channel.mean_curves().uplink
    return np.asarray(bits / rates.rate_bit_per_s(shares))


def _server_j(forecast: Forecast, delay_s: float) -> float | None:
    """Of a round of so many seconds; the server computes as long in each."""
    server, usual = forecast.workload.server, forecast.usual
    compute_s = usual.server_busy * usual.delay_s
    compute_j = _joules(server.power_w, compute_s)
    idle_j = _joules(server.idle_power_w, max(delay_s - compute_s, 0.0))
    return None if compute_j is None else compute_j + (idle_j or 0.0)


def _joules(power_w: float | None, seconds: float) -> float | None:
    return None if power_w is None else power_w * seconds


def _sum(devices: tuple[DeviceEnergy, ...]) -> float | None:
    """Of all devices; None if one of them is not known."""
    known = [total for one in devices if (total := one.total_j) is not None]
    return sum(known) if len(known) == len(devices) else None


def _all_rounds(rounds: Sequence[int], joules: Sequence[float | None]) -> float | None:
    """Of so many rounds that take so much each; None if one of them is not known."""
    known = [count * each for count, each in zip(rounds, joules, strict=True) if each is not None]
    return sum(known) if len(known) == len(joules) else None
