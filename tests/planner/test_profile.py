"""Profiles and their files."""

import json
from pathlib import Path

import pytest

from cutlayer.errors import ConfigError
from cutlayer.planner.profile import Profile, ProfilePoint, profile_text, read_profile

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
