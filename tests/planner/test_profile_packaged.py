"""The profiles that come with the package."""

import shlex

import pytest

from cutlayer.config.schema import Config
from cutlayer.planner.profile import Profile, packaged_profile


@pytest.fixture(scope="module")
def default() -> Profile:
    """That of the default job's model and data."""
    config = Config()
    found = packaged_profile(config.model.name, config.data.name)
    assert found is not None
    return found


def test_there_is_one_of_the_built_in_job(default: Profile) -> None:
    assert (default.model, default.data, default.cut) == (
        "dinov2-small",
        "fashion-mnist",
        Config().model.cut,
    )
    assert shlex.split(default.command)[:2] == ["cutlayer", "profile"]
    assert {point.codec for point in default.points} == {
        "none",
        "paper",
        "paper-rans",
        "best",
        "fast",
    }


def test_there_is_none_of_anything_else() -> None:
    assert packaged_profile("dinov2-small", "cifar100") is None
    assert packaged_profile("minilm", "fashion-mnist") is None
    assert packaged_profile("/dinov2-small", "fashion-mnist") is None


def test_paper_rans_takes_fewer_bits_for_the_same_accuracies(default: Profile) -> None:
    pairs = zip(default.of("paper"), default.of("paper-rans"), strict=True)
    for paper, plus in pairs:
        assert (paper.settings, paper.accuracies) == (plus.settings, plus.accuracies)
        assert plus.bits_up < paper.bits_up and plus.bits_down < paper.bits_down


def test_the_grid_is_whole(default: Profile) -> None:
    """Surfaces need every pair of keep ratio and levels; ten at least, for the cubic (35)."""
    places = {(p.settings["keep_ratio"], p.settings["levels"]) for p in default.of("paper")}
    axes = [{place[axis] for place in places} for axis in (0, 1)]
    assert len(places) == len(axes[0]) * len(axes[1]) == len(default.of("paper")) >= 10
