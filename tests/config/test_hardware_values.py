"""Presets in a configuration: what they stand for, and what is given beside them."""

from pathlib import Path

import pytest

from cutlayer.config.machines import DevicesSection, ServerSection
from cutlayer.config.presets import find_preset
from cutlayer.config.read import config_yaml, read_config, read_values
from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError
from cutlayer.jobs.machines import make_devices
from cutlayer.units import GIB, MIB

NANO = find_preset("jetson-nano")


def test_one_preset_serves_all_devices_alike() -> None:
    devices = make_devices(DevicesSection(count=3, preset="jetson-nano"))
    assert [device.name for device in devices] == [f"jetson-nano-{n}" for n in range(3)]
    assert {device.flops_per_s for device in devices} == {NANO.flops_per_s}
    assert {device.memory_bytes for device in devices} == {4 * GIB - 512 * MIB}
    assert {device.reserved_bytes for device in devices} == {512 * MIB}


def test_a_list_names_each_and_counts_them() -> None:
    section = DevicesSection(preset=("pixel-4a", "jetson-nano"), efficiency=0.25)
    assert section.count == 2
    pixel, nano = make_devices(section)
    assert (pixel.name, nano.name) == ("pixel-4a-0", "jetson-nano-1")
    assert nano.flops_per_s == 0.25 * NANO.flops_per_s
    assert pixel.memory_bytes == 6 * GIB - 512 * MIB


def test_what_is_given_beside_a_preset_wins() -> None:
    section = DevicesSection(count=2, preset="jetson-nano", memory_mib=512.0)
    assert {device.memory_bytes for device in make_devices(section)} == {512 * MIB}
    assert {device.flops_per_s for device in make_devices(section)} == {NANO.flops_per_s}
    slow, fast = make_devices(DevicesSection(count=2, preset="jetson-nano", flops_spread=0.5))
    assert fast.flops_per_s == 3 * slow.flops_per_s == 1.5 * NANO.flops_per_s
    free = DevicesSection(preset="jetson-nano", memory_mib=None)
    assert {device.memory_bytes for device in make_devices(free)} == {None}


def test_what_is_reserved_is_not_for_training() -> None:
    (own,) = make_devices(DevicesSection(count=1, preset="jetson-nano", reserved_mib=1024.0))
    assert (own.memory_bytes, own.reserved_bytes) == (3 * GIB, GIB)
    (given,) = make_devices(DevicesSection(count=1, preset="jetson-nano", memory_mib=512.0))
    assert (given.memory_bytes, given.reserved_bytes) == (512 * MIB, 0)
    each = DevicesSection(count=2, memory_mib=64.0, reserved_mib=(0.0, 16.0))
    assert [device.memory_bytes for device in make_devices(each)] == [64 * MIB, 48 * MIB]


def test_without_a_preset_everything_is_as_it_was() -> None:
    assert DevicesSection(preset=None) == DevicesSection()
    assert ServerSection(preset=None) == ServerSection()


def test_a_server_has_presets_too() -> None:
    peak = find_preset("rtx-4090").flops_per_s
    assert ServerSection(preset="rtx-4090", efficiency=0.5).flops_per_s == 0.5 * peak
    assert ServerSection(preset="rtx-4090", flops_per_s=1e12).flops_per_s == 1e12


def test_a_configuration_reads_back_to_the_same_devices(tmp_path: Path) -> None:
    overrides = {
        "devices.preset": "[jetson-nano, pixel-6]",
        "devices.efficiency": "0.3",
        "server.preset": "l4",
    }
    config = read_config(None, overrides)
    path = tmp_path / "config.yaml"
    path.write_text(config_yaml(config), encoding="utf-8")
    assert read_config(path) == config
    assert config != Config()


def test_an_efficiency_that_yaml_takes_for_text_counts() -> None:
    section = read_values({"devices": {"preset": "jetson-nano", "efficiency": "3e-1"}}).devices
    assert section.flops_per_s == 0.3 * NANO.flops_per_s


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"devices.preset": "jetson-nan"},
            r"no device preset 'jetson-nan'; did you mean jetson-na",
        ),
        ({"devices.preset": "[pixel-6, pixle-6a]"}, r"'pixle-6a'; did you mean pixel-6a"),
        (
            {"devices.memory_mib": "null", "devices.reserved_mib": "100"},
            r"devices\.reserved_mib 100\.0 is not read with devices\.memory_mib null",
        ),
        ({"server.preset": "rtx-409"}, r"no device preset 'rtx-409'; did you mean rtx-4090"),
        (
            {"devices.preset": "[pixel-6, pixel-6]", "devices.count": "3"},
            r"devices\.preset lists 2 names for devices\.count 3: leave the count out",
        ),
        ({"devices.preset": "[]"}, r"devices\.preset is an empty list: name one"),
        ({"devices.preset": "7"}, r"no device preset '7'"),
        ({"devices.efficiency": "0.5"}, r"devices\.efficiency 0\.5 is of a preset's peak rate"),
        ({"server.batch": "arrivals", "server.coalesce_ms": "60001"}, "should be at most 60000"),
        ({"server.reserved_mib": "100"}, r"server\.reserved_mib 100 is part of server\.memory_mib"),
        ({"server.efficiency": "0.5"}, r"server\.efficiency 0\.5 is of a preset's peak rate"),
        ({"devices.preset": "l4", "devices.efficiency": "1.5"}, r"devices\.efficiency.*not 1\.5"),
        ({"devices.preset": "l4", "devices.efficiency": "0"}, r"devices\.efficiency.*not 0"),
        ({"devices.preset": "l4", "devices.efficiency": ".nan"}, r"devices\.efficiency"),
        ({"devices.preset": "l4", "devices.efficiency": "high"}, r"devices\.efficiency"),
    ],
)
def test_what_cannot_be_is_told(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(None, overrides)
