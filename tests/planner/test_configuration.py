"""(P1): its limits, and its exact solver against brute force."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ConfigError
from cutlayer.planner.accuracy import CubicSurface, SettingsBox
from cutlayer.planner.bandwidth import SolverStatus
from cutlayer.planner.configuration import (
    ConfigurationProblem,
    EntropyRatio,
    TabledRatio,
    solve_configuration,
)
from examples import at_most
from planner.instances import BOX, bumpy, instance, paper_like, rising

_POINTS = 2001
_GRID = np.linspace(*BOX.keep_ratio, _POINTS)


def brute_force(problem: ConfigurationProblem) -> float:
    """The least delay over every cut, every whole number of bits and 2001 keep ratios."""
    bits, rho = np.meshgrid(problem.box.whole_bits(), _GRID, indexing="ij")
    accurate = problem.surface.at(rho, bits) >= problem.least_accuracy
    delays_s = problem.delay_s(problem.compression.at(rho, bits))
    fits = (problem.need_bytes <= problem.limit_bytes).all(axis=1)
    calm = problem.server_busy <= problem.most_busy
    kept = (fits & calm & (problem.cuts >= problem.least_cut))[:, None, None] & accurate
    return float(np.min(delays_s, initial=np.inf, where=kept))


def grid_error_s(problem: ConfigurationProblem) -> float:
    """How much slower the grid's best may be than the best of a rising surface.

    Next to the best keep ratio, at most a step above it, is a point of the grid that is accurate.
    The ratio grows by at most ((1 + q) + log2((1 - rho) / rho)) / 32 a unit.
    """
    slope = (1 + BOX.bits[1] + np.log2(1 / BOX.keep_ratio[0])) / 32
    return float(problem.per_ratio_s.max() * slope * (_GRID[1] - _GRID[0]))


def test_exact_equals_brute_force_on_500_instances() -> None:
    rng = np.random.default_rng(7)
    seen: Counter[SolverStatus] = Counter()
    for _ in range(500):
        problem = instance(rng, rising(rng), float(rng.uniform(0.35, 0.97)))
        found, brute_s = solve_configuration(problem), brute_force(problem)
        seen[found.status] += 1
        if found.choice is None:
            assert brute_s == np.inf
            continue
        assert found.status is SolverStatus.OPTIMAL and problem.feasible(found.choice)
        # the last bits of a delay
        assert found.choice.delay_s <= brute_s * (1 + 1e-12)
        assert brute_s <= found.choice.delay_s + grid_error_s(problem)
    # all three ends are reached often enough to mean something
    assert (
        min(
            seen[status]
            for status in (
                SolverStatus.OPTIMAL,
                SolverStatus.NO_CUT,
                SolverStatus.INACCURATE,
            )
        )
        > 20
    )


def test_no_grid_finds_better_on_a_surface_that_falls() -> None:
    rng = np.random.default_rng(8)
    found_any = 0
    for _ in range(100):
        problem = instance(rng, bumpy(rng), float(rng.uniform(0.6, 0.72)))
        found = solve_configuration(problem)
        if found.choice is not None:
            found_any += 1
            assert problem.feasible(found.choice)
            # accurate islands narrower than a step of the scan, 1 / 180 of a keep ratio, may be
            # missed; none is here
            assert found.choice.delay_s <= brute_force(problem) * (1 + 1e-9)
    assert found_any > 40


def test_a_smaller_ratio_where_more_is_kept_is_found() -> None:
    # with everything kept no positions are sent: 2/32 a value, against 2.27/32 at 0.9
    surface = CubicSurface(np.array([0.8, *np.zeros(9)]), SettingsBox((0.85, 1.0), (1.0, 1.0)))
    problem = replace(paper_like(0.7), surface=surface, box=surface.box)
    chosen = solve_configuration(problem).chosen()
    assert (chosen.keep_ratio, chosen.bits, chosen.ratio) == (1.0, 1.0, 2 / 32)


def test_a_valley_of_the_ratio_is_found() -> None:
    rho = np.linspace(0.1, 0.5, 4001)
    table = TabledRatio(rho, np.array([3.0]), (0.1 + (rho - 0.2345) ** 2)[:, None])
    problem = replace(paper_like(0.2), compression=table, box=SettingsBox((0.1, 0.5), (3.0, 3.0)))
    # nodes of the table are 1e-4 apart, and 0.2345 is one of them
    assert solve_configuration(problem).chosen().keep_ratio == pytest.approx(0.2345, abs=1e-6)


def test_the_paper_s_optimum() -> None:
    chosen = solve_configuration(paper_like()).chosen()
    assert (chosen.cut, chosen.bits) == (1, 3)
    # where 0.88 - 0.277 e^(-rho/0.0654) - 0.006 is 0.86; lines between nodes 10 % apart lie below
    # it by at most an eighth of the squared step in log rho times the curvature, 0.04: 5e-5
    assert chosen.keep_ratio == pytest.approx(-0.0654 * np.log(0.014 / 0.277), rel=0.02)
    assert chosen.accuracy == pytest.approx(0.86, abs=1e-12)
    assert 1 / chosen.ratio == pytest.approx(21.4, abs=0.3)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(0, 100))
@at_most(30)
def test_scaled_and_shifted_seconds_change_no_choice(seed: int, by: float, more_s: float) -> None:
    rng = np.random.default_rng(seed)
    problem = instance(rng, rising(rng), 0.6)
    other = replace(
        problem, fixed_s=by * problem.fixed_s + more_s, per_ratio_s=by * problem.per_ratio_s
    )
    one, two = solve_configuration(problem), solve_configuration(other)
    assert one.status is two.status
    if one.choice is not None and two.choice is not None:
        assert two.choice.keep_ratio == one.choice.keep_ratio
        # another cut only if both are as fast to the last bits
        assert two.choice.delay_s == pytest.approx(by * one.choice.delay_s + more_s, rel=1e-12)


@given(st.integers(0, 2**32 - 1))
@at_most(30)
def test_tighter_limits_never_make_a_round_shorter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = instance(rng, rising(rng), 0.5)
    delays = [
        found.choice.delay_s if found.choice else np.inf
        for found in (
            solve_configuration(problem),
            solve_configuration(replace(problem, least_accuracy=0.6)),
            solve_configuration(
                replace(problem, least_accuracy=0.6, least_cut=problem.least_cut + 1)
            ),
        )
    ]
    # a choice at another keep ratio: the last bits
    assert delays[0] <= delays[1] * (1 + 1e-12) and delays[1] <= delays[2] * (1 + 1e-12)


def test_no_cut_deep_or_calm_enough() -> None:
    found = solve_configuration(replace(paper_like(), least_cut=12))
    assert found.status is SolverStatus.NO_CUT and "lower the least cut" in found.reason
    found = solve_configuration(replace(paper_like(), most_busy=0.05))
    assert found.status is SolverStatus.NO_CUT
    assert "for 10.0% of the round even at cut 11" in found.reason
    with pytest.raises(ConfigError, match=r"allowed are 5\.0%"):
        found.chosen()


def test_what_does_not_fit_is_named() -> None:
    limits = np.array([3.0, 20, 0.5, 0.25, 20, 20, 20, 20]) * 2**20
    problem = replace(paper_like(), need_bytes=2**20 * paper_like().need_bytes, limit_bytes=limits)
    found = solve_configuration(problem)
    assert found.status is SolverStatus.NO_CUT
    assert "cut 1 comes nearest, needs 1.00 MiB on device 3, whose limit is 256 KiB" in found.reason
    assert "1 more are short of memory" in found.reason and "give it 768 KiB more" in found.reason
    assert (
        solve_configuration(replace(problem, limit_bytes=np.full(8, np.inf))).status
        is SolverStatus.OPTIMAL
    )


def test_an_accuracy_that_no_setting_reaches() -> None:
    found = solve_configuration(paper_like(0.88))
    assert found.status is SolverStatus.INACCURATE
    assert "of 0.8800: the best is 0.8799, at keep ratio 0.5 and 8 bits" in found.reason


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fixed_s": np.full((11, 8), np.nan)}, "fixed_s must be finite"),
        ({"per_ratio_s": -np.ones((11, 8))}, "per_ratio_s must be finite and not negative"),
        ({"limit_bytes": np.zeros(8)}, "limit_bytes must be above 0"),
        ({"least_accuracy": 86.0}, "a share is 0 to 1"),
        ({"box": SettingsBox((0.05, 0.5), (2.1, 2.9))}, "hold no whole number"),
        ({"box": SettingsBox((0.01, 0.5), (2.0, 3.0))}, "keep ratio 0.01 is outside"),
    ],
)
def test_a_problem_that_is_none(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(paper_like(), **changes)  # type: ignore[arg-type]


def test_without_a_cut_there_is_nothing_to_choose() -> None:
    none = np.zeros((0, 8))
    with pytest.raises(ConfigError, match="at least one cut"):
        replace(
            paper_like(), fixed_s=none, per_ratio_s=none, need_bytes=none, server_busy=np.zeros(0)
        )


def test_the_slowest_device_is_the_round() -> None:
    problem = replace(
        paper_like(),
        fixed_s=np.tile([10.0, 0.0], (2, 1)),
        per_ratio_s=np.tile([1.0, 101.0], (2, 1)),
        need_bytes=np.ones((2, 2)),
        limit_bytes=np.full(2, 5.0),
        server_busy=np.zeros(2),
    )
    assert problem.delay_s(np.array([0.05, 0.1, 0.2]))[1] == pytest.approx([10.05, 10.1, 20.2])
    assert problem.delay_s(np.full((2, 3), 0.1)).shape == (2, 2, 3)


def test_the_entropy_ratio_in_the_paper_s_numbers() -> None:
    # 80 % sparsity and 3 bits: 21.25 times with positions at their entropy
    (ratio,) = EntropyRatio().at(np.array([0.2]), np.array([3.0]))
    assert ratio == pytest.approx((0.8 + 0.7219280949) / 32, rel=1e-9)
