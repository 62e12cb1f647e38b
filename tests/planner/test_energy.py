"""Joules and money of a plan, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from cutlayer.planner.decision import PlannedServer, Prices, Workload
from cutlayer.planner.energy import plan_energy
from cutlayer.planner.estimate import amounts_of
from cutlayer.planner.forecast import Forecast, forecast_rounds
from planner import workloads


def powered(power_w: float | None = 5.0, idle_power_w: float | None = 1.0) -> Workload:
    """Three devices that draw so much."""
    own = workloads.workload()
    devices = tuple(replace(one, power_w=power_w, idle_power_w=idle_power_w) for one in own.devices)
    return replace(own, devices=devices)


def forecast_of(own: Workload) -> Forecast:
    """Cut 2 on even shares."""
    return forecast_rounds(own, workloads.decision(own))


def test_power_times_seconds() -> None:
    own = replace(powered(), radio_power_w=0.2)
    made = forecast_of(own)
    energy, amounts = plan_energy(made), amounts_of(own, made.decision)
    compute_s = amounts.local_steps * amounts.device_s
    bits = amounts.local_steps * amounts.up_bits + amounts.adapter_bits
    rates = own.channel.mean_curves().uplink.rate_bit_per_s(np.array(made.decision.shares))
    for n, one in enumerate(energy.devices):
        assert one.compute_j == pytest.approx(5.0 * compute_s[n])
        assert one.idle_j == pytest.approx(1.0 * (made.delay_s - compute_s[n]))
        assert one.radio_j == pytest.approx(0.2 * bits[n] / rates[n])
        assert one.compute_j is not None and one.idle_j is not None and one.radio_j is not None
        assert one.total_j == pytest.approx(one.compute_j + one.idle_j + one.radio_j)
    # a device that is half as fast computes as much in twice the seconds
    assert energy.devices[0].compute_j == pytest.approx(2 * (energy.devices[1].compute_j or 0.0))


def test_the_first_round_is_longer_and_waited_through() -> None:
    made = forecast_of(powered())
    energy = plan_energy(made)
    later = sum(one.total_j or 0.0 for one in energy.devices)
    waited = 3 * 1.0 * (made.first.delay_s - made.delay_s)
    assert energy.all_devices_j == pytest.approx(made.workload.rounds * later + waited)


def test_what_nobody_knows_is_none() -> None:
    energy = plan_energy(forecast_of(replace(powered(None, 1.0), radio_power_w=0.2)))
    assert {one.total_j for one in energy.devices} == {None}
    assert energy.devices[0].radio_j is not None
    assert (energy.all_devices_j, energy.devices_cost, energy.server_j) == (None, None, None)
    # a device without a sensor leaves the sum unknown, and the others known
    own = powered()
    some = replace(own, devices=(replace(own.devices[0], power_w=None), *own.devices[1:]))
    partly = plan_energy(forecast_of(replace(some, prices=Prices(device_per_kwh=0.3))))
    assert [one.total_j is None for one in partly.devices] == [True, False, False]
    assert (partly.all_devices_j, partly.devices_cost) == (None, None)


def test_a_server_computes_and_waits() -> None:
    own = replace(powered(), server=PlannedServer(power_w=100.0, idle_power_w=20.0))
    made = forecast_of(own)
    energy, busy_s = plan_energy(made), made.later.server_busy * made.delay_s
    expected = 100.0 * busy_s + 20.0 * (made.delay_s - busy_s)
    assert energy.server_j == pytest.approx(expected)
    more_s = made.first.delay_s - made.delay_s
    assert energy.all_server_j == pytest.approx(5 * expected + 20.0 * more_s)


def test_money_is_hours_and_kilowatt_hours() -> None:
    own = replace(powered(), prices=Prices(server_per_hour=3.6, device_per_kwh=0.5))
    made = forecast_of(own)
    energy = plan_energy(made)
    assert energy.server_cost == pytest.approx(made.training_s * 1e-3)
    assert energy.devices_cost == pytest.approx((energy.all_devices_j or 0.0) * 0.5 / 3.6e6)
