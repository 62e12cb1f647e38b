"""Short forms for devices: spreads, lists, and what cannot be."""

import numpy as np
import pytest

from cutlayer.config.machines import DevicesSection
from cutlayer.config.training import TrainingSection
from cutlayer.data.partition import BatchPlan
from cutlayer.errors import ConfigError
from cutlayer.jobs.build import local_steps
from cutlayer.jobs.machines import make_devices
from cutlayer.units import MIB


def test_rates_spread_evenly_around_the_middle() -> None:
    section = DevicesSection(count=5, flops_per_s=1e12, flops_spread=0.5)
    rates = [device.flops_per_s for device in make_devices(section)]
    assert rates == pytest.approx([0.5e12, 0.75e12, 1e12, 1.25e12, 1.5e12], rel=1e-12)


def test_a_list_is_taken_as_it_is() -> None:
    section = DevicesSection(count=2, flops_per_s=(1.0, 3.0), memory_mib=(1.0, 2.0))
    devices = make_devices(section)
    assert [device.flops_per_s for device in devices] == [1.0, 3.0]
    assert [device.memory_bytes for device in devices] == [MIB, 2 * MIB]


def test_a_single_device_has_the_middle_rate() -> None:
    (device,) = make_devices(DevicesSection(count=1, flops_per_s=2.0))
    assert device.flops_per_s == 2.0


def test_a_list_of_another_length_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"uplink_snr_db lists 2 values for devices\.count 3"):
        make_devices(DevicesSection(count=3, uplink_snr_db=(1.0, 2.0)))


def test_a_reserve_leaves_something() -> None:
    with pytest.raises(ConfigError, match=r"memory_mib 100 without .*reserved_mib 100 leaves"):
        make_devices(DevicesSection(count=2, memory_mib=100.0, reserved_mib=(10.0, 100.0)))
    with pytest.raises(ConfigError, match=r"reserved_mib lists 1 values for devices\.count 2"):
        make_devices(DevicesSection(count=2, reserved_mib=(1.0,)))


def test_local_epochs_count_instead_of_steps() -> None:
    plan = BatchPlan(np.arange(50), 16, 0, 0)
    assert local_steps(TrainingSection(local_steps=6), plan) == 6
    assert local_steps(TrainingSection(local_steps=6, local_epochs=2), plan) == 8
    with pytest.raises(ConfigError, match="both are null"):
        local_steps(TrainingSection(local_steps=None), plan)
