"""Lines into points: means, the codec that sends the same symbols, runs that diverged."""

import pytest

from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError
from cutlayer.planner.profile import ProfilePoint
from cutlayer.profiling.grid import CodecSetting
from cutlayer.profiling.measure import ProfiledRun, ProfileHeader, profile_of

NONE, FAST = CodecSetting("none"), CodecSetting("fast")
PAPER = CodecSetting("paper", {"keep_ratio": 0.25, "levels": 7})
ABOUT = ProfileHeader(Config(), "cutlayer profile", (3, 4), 500)


def line(
    setting: CodecSetting,
    seed: int,
    accuracy: float,
    bits: tuple[float | None, float | None],
    other: tuple[float | None, float | None] = (None, None),
) -> ProfiledRun:
    """A training that ended, in no time."""
    diverged = bits[0] is None
    return ProfiledRun(
        "job", seed, setting.codec, setting.values, accuracy, 2, diverged, *bits, *other, 0.0
    )


def lines(**changed: ProfiledRun) -> list[ProfiledRun]:
    """Two seeds of three settings; some of them changed."""
    usual = {
        "none3": line(NONE, 3, 0.8, (32.0, 32.0)),
        "none4": line(NONE, 4, 0.9, (32.0, 32.0)),
        "paper3": line(PAPER, 3, 0.5, (2.0, 1.5), (1.0, 0.5)),
        "paper4": line(PAPER, 4, 0.7, (2.5, 1.0), (1.5, 0.25)),
        "fast3": line(FAST, 3, 0.75, (4.5, 4.5)),
        "fast4": line(FAST, 4, 0.75, (4.5, 4.5)),
    }
    return [*{**usual, **changed}.values()]


def points(given: list[ProfiledRun]) -> tuple[ProfilePoint, ...]:
    """Those of the three settings."""
    return profile_of(ABOUT, [NONE, PAPER, FAST], {one.key: one for one in given}).points


def test_a_training_of_paper_is_a_point_of_paper_rans_too() -> None:
    assert points(lines()) == (
        ProfilePoint("none", {}, 32.0, 32.0, (0.8, 0.9)),
        ProfilePoint("paper", PAPER.values, 2.25, 1.25, (0.5, 0.7)),
        ProfilePoint("paper-rans", PAPER.values, 1.25, 0.375, (0.5, 0.7)),
        ProfilePoint("fast", {}, 4.5, 4.5, (0.75, 0.75)),
    )


def test_a_training_that_diverged_counts_as_it_was_left() -> None:
    found = points(lines(fast4=line(FAST, 4, 0.1, (None, None))))
    assert found[-1] == ProfilePoint("fast", {}, 4.5, 4.5, (0.75, 0.1))


def test_a_setting_that_never_finished_a_round_is_no_point() -> None:
    bad = {f"paper{seed}": line(PAPER, seed, 0.1, (None, None)) for seed in (3, 4)}
    assert [point.codec for point in points(lines(**bad))] == ["none", "fast"]


def test_nothing_trains_even_without_a_codec() -> None:
    bad = {f"none{seed}": line(NONE, seed, 0.1, (None, None)) for seed in (3, 4)}
    with pytest.raises(ConfigError, match=r"lower optimizer\.learning_rate 0\.001"):
        points(lines(**bad))


def test_a_profile_says_what_it_is_of() -> None:
    given = {one.key: one for one in lines()}
    profile = profile_of(ABOUT, [NONE, PAPER, FAST], given)
    assert (profile.model, profile.data, profile.cut) == ("dinov2-small", "fashion-mnist", 4)
    assert (profile.seeds, profile.test_samples) == ((3, 4), 500)
    assert profile.training == (
        "dinov2-small cut after block 4 on fashion-mnist, 8 devices, 5 x 10 steps of 16 samples,"
        " adamw 0.001, dirichlet 1"
    )
