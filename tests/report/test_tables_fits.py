"""What is said of the surfaces through a profile."""

from dataclasses import replace

from cutlayer.planner.profile import Profile, ProfilePoint
from cutlayer.report.tables import fit_lines

KEEP_RATIOS, BITS = (0.1, 0.2, 0.3, 0.5), (1, 2, 3, 4)
GRID = [(keep_ratio, bits) for keep_ratio in KEEP_RATIOS for bits in BITS]


def profile(*accuracies: float, seeds: int = 2) -> Profile:
    """Of both codecs that send the same symbols: the accuracies of the grid, lower by 0.01 for each
    seed after the first."""
    points = [ProfilePoint("none", {}, 32.0, 32.0, (0.9,) * seeds)]
    for codec in ("paper", "paper-rans"):
        points += [
            ProfilePoint(
                codec,
                {"keep_ratio": keep_ratio, "levels": 2**bits - 1},
                1.0,
                1.0,
                tuple(accuracy - 0.01 * seed for seed in range(seeds)),
            )
            for (keep_ratio, bits), accuracy in zip(GRID, accuracies, strict=False)
        ]
    return Profile("m", "d", 2, "t", "c", 300, tuple(range(seeds)), tuple(points))


RISING = tuple(0.5 + 0.3 * keep_ratio + 0.02 * bits for keep_ratio, bits in GRID)


def test_a_plane_is_met_by_both() -> None:
    """(35) holds every plane; at corners left out, a surface of steps must miss one."""
    cubic, monotone, noise = fit_lines(profile(*RISING))
    assert cubic == (
        "cubic (35): 0.00 points root mean square at the points, 0.00 at points left out in turn"
    )
    assert monotone.startswith("monotone surface: 0.00 points root mean square at the points, ")
    # two seeds 0.01 apart: standard deviation 0.01 / sqrt(2), of a mean of two 0.005; each training
    # counts once though two codecs have it
    assert noise == "noise: 0.50 points (standard error of a mean over the seeds)"


def test_a_surface_that_falls_is_missed_by_the_monotone_one_alone() -> None:
    cubic, monotone, _ = fit_lines(profile(*(1 - value for value in RISING)))
    assert " 0.00 points" in cubic
    assert " 0.00 points" not in monotone


def test_one_seed_says_nothing_of_noise() -> None:
    assert fit_lines(profile(*RISING, seeds=1))[-1] == "noise: unknown with one seed"


def test_few_points_and_holes() -> None:
    few = profile(*RISING)
    kept = [p for p in few.points if p.settings.get("keep_ratio", 0.1) == 0.1]
    cubic, *_ = fit_lines(replace(few, points=tuple(kept)))
    assert cubic.endswith("too few points to leave any out")
    (line,) = fit_lines(replace(few, points=few.points[:-1]))
    assert line.startswith("no accuracy surface: the profile has no point of keep ratio 0.5 and 4")
    (none,) = fit_lines(replace(few, points=few.points[:1]))
    assert none.startswith("no accuracy surface: ")
