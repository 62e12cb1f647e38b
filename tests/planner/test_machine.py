"""A machine's profile: its file, what it says of a task and a base, and what cannot be read."""

from pathlib import Path

import pytest

from cutlayer.errors import ConfigError
from cutlayer.planner.profile import MachineProfile, ReachedRate, machine_text, read_machine
from cutlayer.spec import Base
from cutlayer.units import MIB
from planner.machines import machine

SETTING = "devices.profile"


def test_a_file_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "nano.yaml"
    path.write_text(machine_text(machine()), encoding="utf-8")
    assert read_machine(path, SETTING) == machine()
    path.write_text(machine().model_dump_json(), encoding="utf-8")
    assert read_machine(path, SETTING) == machine()


def test_the_rate_is_of_the_models_family_and_the_bases_numbers() -> None:
    own = machine()
    assert own.rate(Base.FLOAT32, "image-classification", SETTING).step_flops_per_s == 4e9
    assert own.rate(Base.FLOAT32, "causal-lm", SETTING).step_flops_per_s == 2e9
    # whose family nobody knows yet is taken for the slowest
    assert own.rate(Base.FLOAT32, None, SETTING).family == "decoder"
    with pytest.raises(ConfigError, match=r"nano has no rate of decoder blocks in nf4: it has .*"):
        own.rate(Base.NF4, "causal-lm", SETTING)
    with pytest.raises(ConfigError, match=r"no rate of encoder blocks in float32: .*--bases float"):
        own.rate(Base.FLOAT32, "text-classification", SETTING)


def test_memory_is_what_was_free_without_what_is_reserved() -> None:
    assert machine().memory_bytes(512.0, SETTING) == 1536 * MIB
    unknown = machine().model_copy(update={"memory_free_bytes": None})
    assert unknown.memory_bytes(512.0, SETTING) is None
    with pytest.raises(ConfigError, match=r"had 2048 MiB free, of which 4096 are reserved: lower"):
        machine().memory_bytes(4096.0, SETTING)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"devices\.profile: there is no .*; `cutlayer bench-device` makes one"),
        ("[1, 2]", r"is no profile of a machine; `cutlayer bench-device`"),
        ("{a: b", r"is no YAML; "),
        ("\0", r"is no YAML; "),
        ("format: 7", r"has format 7, this cutlayer reads 1: measure again"),
        ("format: 1\nname: nano", r": command is missing; "),
        (machine_text(machine()) + "speed: 3\n", r": speed is not known here; "),
        (machine_text(machine(name="a\nb")), r": name 'a\\nb': say in one line"),
        (machine_text(machine(name="a" * 5000)), r": name 'a{1,80}.*: say in one line"),
        (
            machine_text(machine()).replace("4000000000.0", "1.0e-300"),
            r": rates\.0\.forward_flops_per_s should be at least 1, not 1e-300",
        ),
        (
            machine_text(machine()).replace("0.002", "1.0e+300"),
            r": rates\.0\.block_s should be at most 1e\+06, not 1e\+300",
        ),
        (
            machine_text(machine()).replace("weight_bytes_per_s: 1", "weight_bytes_per_s: true #"),
            r": weight_bytes_per_s should be a number, not True",
        ),
        (
            machine_text(machine()).replace("4000000000.0", ".inf"),
            r": rates\.0\.forward_flops_per_s should be a finite number, not inf",
        ),
        (
            machine_text(machine()).replace("vision", "visions"),
            r": rates\.0\.family should be 'vision'",
        ),
    ],
)
def test_what_is_no_profile(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "machine.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_machine(path, SETTING)


def test_a_profile_has_a_rate() -> None:
    values = machine().model_dump() | {"rates": ()}
    with pytest.raises(ValueError, match="at least 1 item"):
        MachineProfile.model_validate(values)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        ReachedRate.model_validate(machine().rates[0].model_dump() | {"step_flops_per_s": 0.0})
