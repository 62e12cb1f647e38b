"""Accuracy surfaces: what each promises, against brute force, scipy and hand-made grids."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import isotonic_regression, minimize

from cutlayer.errors import ConfigError
from cutlayer.planner.accuracy import (
    AccuracySurface,
    CubicSurface,
    MonotoneSurface,
    ProfileSamples,
    SettingsBox,
    cubic_terms,
    fit_cubic,
    fit_surfaces,
    isotonic_fit,
    monotone_surface,
    samples_of,
)
from cutlayer.planner.profile import Profile, ProfilePoint
from examples import at_most

KEEP_RATIOS = (0.05, 0.1, 0.2, 0.5)
BITS = (1, 2, 3, 5)
GRID = tuple(itertools.product(KEEP_RATIOS, BITS))
Truth = Callable[[float, float], float]


def truth(keep_ratio: float, bits: float) -> float:
    return float(0.88 - 0.277 * np.exp(-keep_ratio / 0.0654) - 0.384 * 4.0**-bits)


def profile(
    value: Truth = truth,
    noise: float = 0.0,
    seeds: int = 3,
    places: tuple[tuple[float, int], ...] = GRID,
    codec: str = "paper-rans",
) -> Profile:
    rng = np.random.default_rng(1)
    points = [
        ProfilePoint(
            codec,
            {"keep_ratio": keep_ratio, "levels": 2**bits - 1},
            1.0,
            1.0,
            tuple(value(keep_ratio, bits) + noise * rng.normal() for _ in range(seeds)),
        )
        for keep_ratio, bits in places
    ]
    none = ProfilePoint("none", {}, 32.0, 32.0, (0.88,) * seeds)
    return Profile("m", "d", 2, "t", "c", 300, tuple(range(seeds)), (none, *points))


def cubic_surface(samples: ProfileSamples) -> AccuracySurface:
    found = fit_cubic(samples.keep_ratio, samples.bits, samples.accuracy)
    return CubicSurface(found.coefficients, samples.box)


SURFACES = [cubic_surface, monotone_surface]


@pytest.mark.parametrize("surface_of", SURFACES)
def test_a_surface_is_its_own_inside_the_box_and_refuses_to_go_out(
    surface_of: Callable[[ProfileSamples], AccuracySurface],
) -> None:
    surface = surface_of(samples_of(profile()))
    assert surface.box == SettingsBox((0.05, 0.5), (1.0, 5.0))
    grid = surface.at(np.full((2, 3), 0.2), np.full((2, 3), 3.0))
    assert grid.shape == (2, 3) and grid == pytest.approx(truth(0.2, 3), abs=0.05)
    wrong = [
        (0.04, 3.0, "keep ratio 0.04 is outside 0.05 to 0.5"),
        (0.2, 6.0, "bits 6 is outside 1 to 5"),
        (np.nan, 3.0, "keep ratio nan is outside"),
    ]
    for keep_ratio, bits, said in wrong:
        with pytest.raises(ConfigError, match=said):
            surface.at(np.array([0.2, keep_ratio]), np.array([3.0, bits]))


@pytest.mark.parametrize(
    ("keep_ratio", "bits"),
    [((0.0, 0.5), (1, 2)), ((0.5, 0.2), (1, 2)), ((0.5, 1.2), (1, 2)), ((0.1, 0.5), (0, 2))],
)
def test_a_box_that_is_none(keep_ratio: tuple[float, float], bits: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="give 0 < "):
        SettingsBox(keep_ratio, bits)


def test_whole_bits_of_a_box() -> None:
    assert SettingsBox((0.1, 0.2), (1.5, 4.0)).whole_bits().tolist() == [2, 3, 4]
    assert SettingsBox((0.1, 0.2), (2.3, 2.6)).whole_bits().tolist() == []


values = arrays(
    np.float64,
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    elements=st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.8, 1.0]),
)


@given(values, st.integers(0, 99))
@at_most(60)
def test_isotonic_is_the_least_squares_fit_that_never_falls(
    measured: np.ndarray, seed: int
) -> None:
    weights = np.random.default_rng(seed).integers(1, 5, measured.shape).astype(float)
    fitted = isotonic_fit(measured, weights)
    assert (np.diff(fitted, axis=0) >= 0).all() and (np.diff(fitted, axis=1) >= 0).all()
    # the projection onto a cone: what is left is orthogonal to the fit, and to no fit's advantage
    left = weights * (measured - fitted)
    # 16 terms below 4 each, rounded to 2e-16 a few times; a split that gains 1e-13 x 64 is not made
    assert abs(np.sum(left * fitted)) < 1e-11
    # a fit that never falls is a constant and a sum of indicators of upper sets
    rows, columns = measured.shape
    for starts in itertools.combinations_with_replacement(range(columns + 1), rows):
        upper = np.arange(columns) >= np.array(starts[::-1])[:, None]
        assert np.sum(left * upper) < 1e-11
    assert abs(np.sum(left)) < 1e-11


@given(arrays(np.float64, 7, elements=st.floats(0, 1)))
@example(np.array([5e-324, 0, 0, 0, 0, 0, 0]))
def test_along_one_axis_it_is_scipy_s(measured: np.ndarray) -> None:
    weights = np.arange(1.0, 8.0)
    wanted = isotonic_regression(measured, weights=weights).x
    # both are means of at most seven values of at most 1
    assert isotonic_fit(measured[:, None], weights[:, None])[:, 0] == pytest.approx(
        wanted, abs=1e-12
    )
    assert isotonic_fit(measured[None], weights[None])[0] == pytest.approx(wanted, abs=1e-12)


def test_on_a_grid_it_is_what_quadratic_programming_finds() -> None:
    rng = np.random.default_rng(3)
    measured, weights = rng.random((4, 3)), rng.integers(1, 4, (4, 3)).astype(float)
    rises = [
        {"type": "ineq", "fun": lambda f, axis=axis: np.diff(f.reshape(4, 3), axis=axis).ravel()}
        for axis in (0, 1)
    ]
    found = minimize(
        lambda f: np.sum(weights * (f.reshape(4, 3) - measured) ** 2),
        np.full(12, measured.mean()),
        method="SLSQP",
        constraints=rises,
        options={"ftol": 1e-14, "maxiter": 500},
    )
    # the objective is exact to 1e-14 and strongly convex: its root
    assert isotonic_fit(measured, weights).ravel() == pytest.approx(found.x, abs=1e-6)


def test_what_never_falls_is_met_and_lies_on_lines_between() -> None:
    surface = monotone_surface(samples_of(profile()))
    rho, q = np.array(GRID).T
    assert surface.at(rho, q) == pytest.approx([truth(*place) for place in GRID], abs=1e-12)
    middle = surface.at(np.array([np.sqrt(0.1 * 0.2)]), np.array([4.0]))
    ends = [truth(k, b) for k in (0.1, 0.2) for b in (3, 5)]
    assert middle[0] == pytest.approx(np.mean(ends), abs=1e-12)


@given(st.integers(0, 2**32 - 1))
@at_most(25)
def test_more_never_predicts_worse(seed: int) -> None:
    rng = np.random.default_rng(seed)
    surface = monotone_surface(samples_of(profile(lambda k, b: float(rng.random()), seeds=1)))
    rho, q = np.meshgrid(np.geomspace(0.05, 0.5, 41), np.linspace(1, 5, 33), indexing="ij")
    seen = surface.at(np.clip(rho, 0.05, 0.5), q)
    # a few roundings of values below 1
    assert np.diff(seen, axis=0).min() >= -1e-15 and np.diff(seen, axis=1).min() >= -1e-15


def test_a_grid_of_one_point_or_one_row() -> None:
    one = monotone_surface(samples_of(profile(places=((0.2, 3),))))
    assert one.at(np.array([0.2]), np.array([3.0]))[0] == pytest.approx(truth(0.2, 3), rel=1e-12)
    row = monotone_surface(samples_of(profile(places=((0.2, 1), (0.2, 3)))))
    wanted = (truth(0.2, 1) + truth(0.2, 3)) / 2
    assert row.at(np.array([0.2]), np.array([2.0]))[0] == pytest.approx(wanted, rel=1e-12)


def test_a_hole_in_the_grid_is_named() -> None:
    with pytest.raises(ConfigError, match=r"keep ratio 0\.05 and 1 bits.* 1 of 16 are missing"):
        monotone_surface(samples_of(profile(places=GRID[1:])))


def test_a_profile_without_the_codec() -> None:
    with pytest.raises(ConfigError, match="no point of paper-rans or paper"):
        samples_of(profile(codec="best"))


def test_both_codecs_at_one_setting_are_one_training() -> None:
    one = profile(places=((0.2, 3),), seeds=2)
    same = profile(places=((0.2, 3),), seeds=2, codec="paper")
    joined = Profile("m", "d", 2, "t", "c", 300, (0, 1), one.points + same.points[1:])
    samples = samples_of(joined)
    assert samples.runs.tolist() == [2] and samples.bits.tolist() == [3]
    assert samples.accuracy[0] == pytest.approx(truth(0.2, 3), rel=1e-12)


def test_more_trainings_weigh_more() -> None:
    falling = ProfileSamples(
        np.array([0.1, 0.2]), np.ones(2), np.array([0.8, 0.5]), np.array([2.0, 1.0]), np.zeros(2)
    )
    assert monotone_surface(falling).values[:, 0] == pytest.approx([0.7, 0.7], rel=1e-12)


def test_residuals_and_what_is_told_of_points_left_out() -> None:
    fitted = fit_surfaces(profile(noise=0.02))
    samples = fitted.samples
    refit = fit_cubic(
        np.delete(samples.keep_ratio, 6),
        np.delete(samples.bits, 6),
        np.delete(samples.accuracy, 6),
    )
    told = refit.at(samples.keep_ratio[[6]], samples.bits[[6]])[0]
    # scaled terms of condition below 1e4 and values below 1: 1e4 x 2e-16 x 100
    assert fitted.cubic.left_out[6] == pytest.approx(100 * (samples.accuracy[6] - told), abs=1e-8)
    for judged in (fitted.cubic, fitted.monotone):
        on = judged.surface.at(samples.keep_ratio, samples.bits)
        assert judged.residuals == pytest.approx(100 * (samples.accuracy - on), abs=1e-10)
        assert judged.root == pytest.approx(np.sqrt(np.mean(judged.residuals**2)), rel=1e-12)
        assert judged.left_out_root > judged.root
    # 16 variances of two degrees of freedom: their mean is within a third of 0.02^2 / 3
    assert fitted.noise == pytest.approx(100 * 0.02 / np.sqrt(3), rel=0.35)


def test_a_point_left_out_is_interpolated_as_far_as_the_others_allow() -> None:
    told = fit_surfaces(profile()).monotone
    number = GRID.index((0.1, 2))
    ratio = np.log([0.05, 0.1, 0.2])
    along = np.interp(ratio[1], ratio[[0, 2]], [truth(0.05, 2), truth(0.2, 2)])
    up = np.mean([truth(0.1, 1), truth(0.1, 3)])
    wanted = 100 * (truth(0.1, 2) - (along + up) / 2)
    assert told.left_out[number] == pytest.approx(wanted, abs=1e-10)
    # a corner is told by its neighbours, of which the worse bounds it
    worse = min(truth(0.1, 1), truth(0.05, 2))
    assert told.left_out[0] == pytest.approx(100 * (truth(0.05, 1) - worse), abs=1e-10)


def test_a_single_point_cannot_be_left_out() -> None:
    assert np.isinf(fit_surfaces(profile(places=((0.2, 3),))).monotone.left_out_root)


def test_one_seed_shows_no_noise_and_few_points_no_cubic() -> None:
    fitted = fit_surfaces(profile(seeds=1, places=tuple(itertools.product((0.1, 0.2), (2, 3)))))
    assert np.isnan(fitted.noise)
    assert np.isinf(fitted.cubic.left_out_root) and np.isfinite(fitted.monotone.left_out_root)


def test_a_cubic_is_the_surface_of_its_terms() -> None:
    coefficients = np.arange(10.0)
    surface = CubicSurface(coefficients, SettingsBox((0.1, 0.5), (1.0, 6.0)))
    rho, q = np.array([0.2, 0.3]), np.array([2.0, 5.0])
    assert surface.at(rho, q) == pytest.approx(cubic_terms(rho, q) @ coefficients, rel=1e-12)


def test_a_monotone_surface_is_exact_at_the_ends() -> None:
    values = np.array([[0.1, 0.2], [0.3, 0.7]])
    surface = MonotoneSurface(np.array([0.1, 0.5]), np.array([2.0, 8.0]), values)
    ends = surface.at(np.array([0.1, 0.5]), np.array([2.0, 8.0]))
    assert ends.tolist() == [0.1, 0.7]
