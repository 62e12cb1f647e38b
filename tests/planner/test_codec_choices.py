"""Codecs to choose from: measured points, and the best setting between them."""

from dataclasses import replace

import pytest

from cutlayer.planner.configuration import measured_choices
from cutlayer.planner.profile import Profile, ProfilePoint

NONE = ProfilePoint("none", {}, 32.0, 32.0, (0.80,))


def grid(codec: str, bits: float) -> list[ProfilePoint]:
    """Three keep ratios by two numbers of bits; every step costs `bits` more."""
    accuracy = {0.1: (0.60, 0.70), 0.2: (0.70, 0.79), 0.4: (0.76, 0.80)}
    return [
        ProfilePoint(
            codec,
            {"keep_ratio": rho, "levels": 2**q - 1},
            bits * rho * (1 + q) + 0.1,
            bits * rho * (1 + q),
            (accuracy[rho][n],),
        )
        for rho in accuracy
        for n, q in enumerate((2, 4))
    ]


BEST = [
    ProfilePoint("best", {"target_bits_up": 0.3, "target_bits_down": 0.2}, 0.3, 0.2, (0.74,)),
    ProfilePoint("best", {"target_bits_up": 0.7, "target_bits_down": 0.4}, 0.7, 0.4, (0.79,)),
    ProfilePoint("best", {"target_bits_up": 1.0, "target_bits_down": 0.6}, 1.0, 0.6, (0.80,)),
]
PROFILE = Profile(
    model="m",
    data="d",
    cut=4,
    training="1 round",
    command="cutlayer profile",
    test_samples=500,
    seeds=(0,),
    points=(NONE, *grid("paper", 2.0), *grid("paper-rans", 1.0), *BEST),
)


def test_none_sends_more_both_ways_than_another() -> None:
    choices = measured_choices(PROFILE, 0.02)
    # 0.7 + 0.4 bits lose a point; the finer point and no codec send more for nothing asked
    assert [each.codec for each in choices.accurate] == ["best"]
    (best,) = choices.accurate
    assert (best.up, best.down) == pytest.approx((0.7 / 32, 0.4 / 32))
    assert best.accuracy_loss == pytest.approx(0.01)
    assert {each.settings["target_bits_up"] for each in choices.inaccurate} == {0.3}


def test_the_grids_codecs_go_to_the_boundary() -> None:
    """At 4 bits the accuracy is 0.70 at a keep ratio of 0.1 and 0.79 at 0.2: 0.78 lies between."""
    without_best = replace(PROFILE, points=tuple(p for p in PROFILE.points if p.codec != "best"))
    choices = measured_choices(without_best, 0.02)
    lossless = next(each for each in choices.accurate if each.codec == "paper-rans")
    assert lossless.accuracy_loss == pytest.approx(0.02, abs=1e-9)
    assert lossless.settings["levels"] == 15
    assert 0.1 < lossless.settings["keep_ratio"] < 0.2
    published = choices.published
    assert published is not None and published.codec == "paper"
    assert published.settings == lossless.settings
    rho = published.settings["keep_ratio"]
    assert published.down == pytest.approx(2 * rho * 5 / 32)
    assert published.up == pytest.approx(published.down + 0.1 / 32)


def test_an_accuracy_that_only_no_codec_keeps() -> None:
    points = tuple(replace(p, accuracies=(0.9,)) if p == NONE else p for p in PROFILE.points)
    choices = measured_choices(replace(PROFILE, points=points), 0.05)
    assert [each.codec for each in choices.accurate] == ["none"]
    assert choices.published is None
