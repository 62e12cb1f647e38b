"""Profiles and their files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cutlayer.errors import ConfigError
from cutlayer.planner.profile import (
    DevicePartPoint,
    Profile,
    ProfilePoint,
    profile_text,
    read_profile,
)

NONE = ProfilePoint("none", {}, 32.0, 32.0, (0.8, 0.9))
PROFILE = Profile(
    model="m",
    data="d",
    cut=4,
    training="2 rounds",
    command="cutlayer profile",
    test_samples=500,
    seeds=(0, 1),
    points=(
        NONE,
        ProfilePoint("paper-rans", {"keep_ratio": 0.2, "levels": 7}, 0.9, 0.8, (0.7, 0.8)),
    ),
    device_parts=(
        DevicePartPoint(4, "trained", None, (0.8, 0.9)),
        DevicePartPoint(4, "frozen", None, (0.7, 0.7)),
        DevicePartPoint(4, "warm", 1, (0.8, 0.9)),
    ),
)


def test_a_profile_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(profile_text(PROFILE))
    assert read_profile(path) == PROFILE
    assert PROFILE.uncompressed.accuracy == pytest.approx(0.85)
    assert [point.codec for point in PROFILE.of("paper-rans", "paper")] == ["paper-rans"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 2}',
        '{"format": 1, "points": 3}',
        profile_text(PROFILE).replace('"cut"', '"cuts"'),
        profile_text(PROFILE).replace('"accuracies"', '"accuracy"'),
    ],
)
def test_a_file_that_is_no_profile(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="is no profile"):
        read_profile(path)
    with pytest.raises(ConfigError, match="`cutlayer profile` makes one"):
        read_profile(tmp_path / "missing.json")


def test_points_that_do_not_fit(tmp_path: Path) -> None:
    fields = json.loads(profile_text(PROFILE))
    path = tmp_path / "profile.json"
    fields["points"][1]["accuracies"] = [0.7]
    path.write_text(json.dumps(fields))
    with pytest.raises(ConfigError, match="1 accuracies for 2 seeds"):
        read_profile(path)
    fields["points"] = fields["points"][1:]
    fields["points"][0]["accuracies"] = [0.7, 0.7]
    path.write_text(json.dumps(fields))
    with pytest.raises(ConfigError, match="needs one point without a codec"):
        read_profile(path)


def test_what_a_frozen_device_part_loses_seed_by_seed() -> None:
    trained, frozen, warm = PROFILE.device_parts_at(4)
    lost = PROFILE.device_part_loss(frozen)
    # 0.1 and 0.2: their standard deviation is 0.0707, that of the mean 0.05
    assert (lost.loss, lost.error) == (pytest.approx(0.15), pytest.approx(0.05))
    for same in (trained, warm):
        assert PROFILE.device_part_loss(same).loss == PROFILE.device_part_loss(same).error == 0.0
    assert PROFILE.device_parts_at(5) == ()


def test_with_one_seed_the_error_is_that_of_the_test_samples() -> None:
    one = replace(
        PROFILE,
        seeds=(0,),
        points=(replace(NONE, accuracies=(0.8,)),),
        device_parts=tuple(
            replace(point, accuracies=point.accuracies[:1]) for point in PROFILE.device_parts
        ),
    )
    lost = one.device_part_loss(one.device_parts[1])
    assert lost.loss == pytest.approx(0.1)
    assert lost.error == pytest.approx(((0.8 * 0.2 + 0.7 * 0.3) / 500) ** 0.5)


def test_a_profile_without_device_parts_is_read_too(tmp_path: Path) -> None:
    fields = json.loads(profile_text(PROFILE))
    del fields["device_parts"]
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(fields))
    assert read_profile(path) == replace(PROFILE, device_parts=())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (PROFILE.device_parts[1:], "cut 4 needs one point with its device part trained"),
        (
            (DevicePartPoint(9, "trained", None, (0.8,)),),
            "device part trained at cut 9 has 1 accuracies for 2 seeds",
        ),
    ],
)
def test_device_parts_that_do_not_fit(parts: tuple[DevicePartPoint, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(PROFILE, device_parts=parts)
