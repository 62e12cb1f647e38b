"""Devices and a server as they were measured: what a profile gives, and what goes with it."""

from pathlib import Path

import pytest
import yaml
from planner.machines import machine

from cutlayer.config.machines import DevicesSection, ServerSection
from cutlayer.config.read import config_yaml, read_config
from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError
from cutlayer.jobs.check import as_run, check
from cutlayer.jobs.machines import make_devices, make_server
from cutlayer.jobs.plan import plan
from cutlayer.jobs.workload import make_workload
from cutlayer.planner.profile import machine_text
from cutlayer.report.plan import decision_facts, device_cells
from cutlayer.report.plan_page import plan_page
from cutlayer.units import GIB, MIB, format_joules


@pytest.fixture
def nano(tmp_path: Path) -> str:
    """A device's file."""
    return written(tmp_path / "nano.yaml", "nano")


def written(path: Path, name: str, power_w: float | None = 5.0) -> str:
    """A machine's profile in a file."""
    path.write_text(machine_text(machine(name, power_w)), encoding="utf-8")
    return str(path)


def test_devices_are_as_they_were_measured(nano: str, tmp_path: Path) -> None:
    section = DevicesSection(count=2, profile=nano)
    first, second = make_devices(section, "image-classification")
    assert (first.name, second.name) == ("nano-0", "nano-1")
    assert first.flops_per_s == second.flops_per_s == 4e9
    assert (first.memory_bytes, first.reserved_bytes) == (2 * GIB - 512 * MIB, 512 * MIB)
    assert (first.power_w, first.idle_power_w) == (5.0, 1.0)
    assert make_devices(section, "causal-lm")[0].flops_per_s == 2e9
    # of different kinds, one each
    phone = written(tmp_path / "phone.yaml", "phone", power_w=None)
    kinds = DevicesSection(profile=(nano, phone), reserved_mib=0.0, power_w=7.0)
    assert kinds.count == 2
    assert [one.name for one in make_devices(kinds)] == ["nano-0", "phone-1"]
    assert {one.power_w for one in make_devices(kinds)} == {7.0}
    assert {one.memory_bytes for one in make_devices(kinds)} == {2 * GIB}
    free = DevicesSection(profile=nano, memory_mib=None)
    assert make_devices(free)[0].memory_bytes is None


def test_a_server_is_as_it_was_measured(nano: str) -> None:
    own = make_server(ServerSection(profile=nano), "image-classification")
    assert (own.flops_per_s, own.block_s) == (4e9, 0.002)
    assert (own.memory_bytes, own.reserved_bytes) == (2 * GIB - 512 * MIB, 512 * MIB)
    assert (own.power_w, own.idle_power_w) == (5.0, 1.0)


def test_a_preset_server_keeps_a_reserve_too() -> None:
    own = make_server(ServerSection(preset="l4"))
    assert (own.memory_bytes, own.reserved_bytes) == (24 * GIB - 512 * MIB, 512 * MIB)
    assert own.power_w == 72.0
    given = make_server(ServerSection(preset="l4", memory_mib=1024.0))
    assert (given.memory_bytes, given.reserved_bytes) == (GIB, 0)
    with pytest.raises(ConfigError, match=r"server\.memory_mib 100 without server\.reserved_mib"):
        make_server(ServerSection(memory_mib=100.0, reserved_mib=100.0))


def test_a_preset_draws_what_its_data_sheet_allows() -> None:
    assert make_devices(DevicesSection(count=1, preset="jetson-nano"))[0].power_w == 10.0
    assert make_devices(DevicesSection(count=1, preset="pixel-6"))[0].power_w is None
    mixed = DevicesSection(preset=("jetson-nano", "pixel-6"))
    assert mixed.power_w == (10.0, None)
    modules = make_devices(DevicesSection(preset=("jetson-nano", "jetson-tx2")))
    assert [one.power_w for one in modules] == [10.0, 15.0]


def test_a_plan_is_of_ones_own_machines(nano: str) -> None:
    config = Config(
        devices={"count": 2, "profile": nano},
        server={"profile": nano},
        training={"local_steps": 2, "batch_size": 4},
    )
    workload = make_workload(config)
    assert set(workload.flops_per_s) == {4e9}
    assert workload.server_flops_per_s == 4e9
    assert workload.server.memory_bytes == 2 * GIB - 512 * MIB
    planned = plan(config)
    assert planned.chosen is not None
    (first, _) = planned.to_dict()["forecast"]["devices"]
    assert (first["name"], first["reserved_bytes"]) == ("nano-0", 512 * MIB)


def test_a_configuration_with_profiles_reads_back(
    nano: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = read_config(None, {"devices.profile": "nano.yaml", "server.profile": "nano.yaml"})
    full = as_run(config)
    assert (full.devices.profile, full.server.profile) == (nano, nano)
    path = tmp_path / "config.yaml"
    path.write_text(config_yaml(full), encoding="utf-8")
    assert read_config(path) == full
    listed = as_run(read_config(None, {"devices.profile": "[nano.yaml, nano.yaml]"}))
    assert listed.devices.profile == (nano, nano)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"devices.preset": "jetson-nano"},
            r"devices\.profile '.*nano.*' was measured, and devices\.preset 'jetson-nano'",
        ),
        (
            {"devices.flops_per_s": "1e9"},
            r"devices\.flops_per_s 1000000000\.0 is not read with d",
        ),
        (
            {"devices.flops_spread": "0.1"},
            r"devices\.flops_spread 0\.1 is not read with dev",
        ),
        (
            {"devices.memory_mib": "100"},
            r"devices\.memory_mib 100\.0 is not read with dev",
        ),
        ({"devices.efficiency": "0.5"}, r"devices\.efficiency 0\.5 is of a preset's peak rate"),
        ({"server.preset": "l4"}, r"server\.profile '.*' was measured, and server\.preset 'l4'"),
        (
            {"server.flops_per_s": "1e9"},
            r"server\.flops_per_s 1000000000\.0 is not read with s",
        ),
        ({"server.block_ms": "3"}, r"server\.block_ms 3\.0 is not read with server\.profile"),
    ],
)
def test_a_profile_says_it_alone(overrides: dict[str, str], message: str, nano: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(None, {"devices.profile": nano, "server.profile": nano, **overrides})


def test_a_profile_that_is_of_no_use(nano: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"devices\.profile: there is no .*absent\.yaml"):
        make_devices(DevicesSection(profile=str(tmp_path / "absent.yaml")))
    with pytest.raises(ConfigError, match=r"server\.profile: there is no .*absent\.yaml"):
        plan(Config(server={"profile": str(tmp_path / "absent.yaml")}))
    with pytest.raises(ConfigError, match=r"nano has no rate of any blocks in bfloat16"):
        make_devices(DevicesSection(profile=nano, base="bfloat16"))
    with pytest.raises(
        ConfigError, match=r"server\.profile nano has no rate of vision blocks in nf4"
    ):
        make_server(ServerSection(profile=nano, base="nf4"), "image-classification")
    with pytest.raises(ConfigError, match=r"devices\.profile lists 2 names for devices\.count 3"):
        read_config(None, {"devices.profile": f"[{nano}, {nano}]", "devices.count": "3"})
    old = tmp_path / "old.yaml"
    old.write_text(yaml.safe_dump({"format": 0}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"has format 0, this cutlayer reads 1"):
        make_devices(DevicesSection(profile=str(old)))


def test_a_profile_of_other_models_is_found_before_data_are(nano: str, tmp_path: Path) -> None:
    values = yaml.safe_load(Path(nano).read_text(encoding="utf-8"))
    values["rates"] = values["rates"][1:]
    decoders = tmp_path / "decoders.yaml"
    decoders.write_text(yaml.safe_dump(values), encoding="utf-8")
    for section in ("devices", "server"):
        config = read_config(None, {f"{section}.profile": str(decoders)})
        with pytest.raises(ConfigError, match=rf"{section}\.profile nano has no rate of vision"):
            check(config)


def test_energy_and_money_are_in_the_plan(nano: str) -> None:
    made = plan(
        Config(
            devices={"count": 2, "profile": nano, "price_per_kwh": 0.3},
            server={"preset": "l4", "price_per_hour": 1.2},
            training={"local_steps": 2, "batch_size": 4},
            channel={"cell": "umi"},
        )
    )
    assert made.energy is not None
    record = made.to_dict()["forecast"]
    assert [one["energy_j"] for one in record["devices"]] == [
        one.total_j for one in made.energy.devices
    ]
    # 23 dBm
    assert make_workload(made.given).radio_power_w == pytest.approx(0.1995, rel=1e-3)
    assert record["devices"][0]["radio_j"] > 0
    assert record["server"]["energy_j"] == made.energy.server_j
    assert record["all_rounds"]["server_cost"] == pytest.approx(1.2 * record["training_s"] / 3600)
    assert record["all_rounds"]["devices_cost"] == made.energy.devices_cost
    facts, cells = decision_facts(made.plan), device_cells(made.plan)
    # idle power was measured on the devices; a data sheet knows none
    devices, _, server = facts["energy a round"].partition(", server ")
    assert devices.endswith(" a device")
    joules = format_joules(made.energy.server_j or 0.0)
    assert server == f"{joules} (without what it draws while it waits)"
    assert facts["cost"].startswith("5 rounds: server ")
    assert cells.headings[-1] == "energy J"
    assert "energy a round" in plan_page(made.plan) and "<th>energy J</th>" in plan_page(made.plan)


def test_without_powers_and_prices_nothing_is_said_of_them() -> None:
    made = plan(Config(devices={"count": 2}, training={"local_steps": 2, "batch_size": 4}))
    facts = decision_facts(made.plan)
    assert "energy a round" not in facts and "cost" not in facts
    assert device_cells(made.plan).headings[-1] != "energy J"
    assert made.energy is not None and made.energy.server_cost is None
    # a price of what nobody knows is named
    priced = plan(Config(devices={"count": 2, "price_per_kwh": 0.3}))
    assert any("nobody knows what devices draw" in line for line in priced.notes)
