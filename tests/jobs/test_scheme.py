"""What scheme a run has, and when `auto` freezes the device part."""

from dataclasses import replace
from pathlib import Path

import pytest

from cutlayer.config.read import config_yaml
from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError
from cutlayer.jobs.check import as_run
from cutlayer.jobs.scheme import make_scheme, settled
from cutlayer.planner.profile import (
    FROZEN,
    TRAINED,
    DevicePartPoint,
    Profile,
    ProfilePoint,
    profile_text,
)

MEASURED = Profile(
    model="tiny",
    data="dots",
    cut=2,
    training="",
    command="",
    test_samples=500,
    seeds=(0, 1),
    points=(ProfilePoint("none", {}, 32.0, 32.0, (0.8, 0.8)),),
    device_parts=(
        DevicePartPoint(2, TRAINED, None, (0.80, 0.82)),
        DevicePartPoint(2, FROZEN, None, (0.81, 0.80)),
        DevicePartPoint(3, TRAINED, None, (0.80, 0.82)),
        DevicePartPoint(3, FROZEN, None, (0.60, 0.62)),
    ),
)


def scheme(
    folder: Path,
    *,
    profile: Profile = MEASURED,
    cut: int = 2,
    most_loss: float = 0.02,
    **sections: object,
) -> str:
    path = folder / "measured.json"
    path.write_text(profile_text(profile))
    given = Config.model_validate(
        {
            "model": {"name": "tiny", "cut": cut},
            "data": "dots",
            "planner": {"profile": str(path), "accuracy_loss": most_loss},
            **sections,
        }
    )
    return settled(given).scheme.name


def test_where_training_the_device_part_brings_nothing_it_is_frozen(tmp_path: Path) -> None:
    assert scheme(tmp_path) == "sft-frozen"


def test_where_it_brings_something_or_nobody_knows_it_is_trained(tmp_path: Path) -> None:
    assert scheme(tmp_path, cut=3) == "sft"
    assert scheme(tmp_path, cut=1) == "sft"
    assert settled(Config(model={"name": "tiny"}, data="dots")).scheme.name == "sft"


def test_how_much_it_may_bring_is_a_setting(tmp_path: Path) -> None:
    """A point and a half is less than the two of the default."""
    points = MEASURED.device_parts[:1], DevicePartPoint(2, FROZEN, None, (0.785, 0.805))
    profile = replace(MEASURED, device_parts=(*points[0], points[1]))
    assert scheme(tmp_path, profile=profile) == "sft-frozen"
    assert scheme(tmp_path, profile=profile, most_loss=0.01) == "sft"


def test_who_says_what_is_trained_is_heard(tmp_path: Path) -> None:
    assert scheme(tmp_path, scheme="sft") == "sft"
    warm = Config(device_part={"name": "warm", "rounds": 1})
    assert make_scheme(warm).name == settled(warm).scheme.name == "sft"
    assert make_scheme(Config(device_part="frozen")).name == "sft-frozen"
    assert scheme(tmp_path, adapter={"layers": [2, 3]}) == "sft"


def test_a_run_keeps_what_was_decided_as_it_began(tmp_path: Path) -> None:
    assert "name: auto" not in config_yaml(as_run(Config()))
    assert as_run(as_run(Config())) == as_run(Config())


def test_a_profile_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "none.json")
    with pytest.raises(ConfigError, match=r"no profile .*none\.json"):
        settled(Config(planner={"profile": nowhere}))


def test_a_run_that_starts_from_an_adapter_trains_what_that_one_trained(tmp_path: Path) -> None:
    for name, cut, wanted in (
        ("sft", 2, "sft"),
        ("sft-frozen", 2, "sft-frozen"),
        ("sft", 3, "sft"),
    ):
        folder = tmp_path / name / str(cut) / "adapter"
        folder.mkdir(parents=True)
        began = Config(scheme=name, model={"name": "tiny", "cut": cut})
        (folder / "cutlayer.yaml").write_text(config_yaml(began))
        for start in (folder, folder.parent):
            assert scheme(tmp_path, adapter={"start_from": str(start)}) == wanted
