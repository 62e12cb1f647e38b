"""Algorithm 3: as published it fails where the audit says, with a trust region it does not."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from planner.problems import problem, problems, random_problem, with_rates

from cutlayer.channel.rates import ProportionalRates
from cutlayer.planner.bandwidth import BandwidthProblem, LimitedBy, SolverStatus, solve_bandwidth
from examples import at_most
from reproduction.algorithms import PublishedAlgorithm3, TrustRegionAlgorithm3

PUBLISHED, TRUST_REGION = PublishedAlgorithm3(), TrustRegionAlgorithm3()


@given(problems())
@at_most(25)
def test_trust_region_finds_the_exact_deadline(any_problem: BandwidthProblem) -> None:
    found = TRUST_REGION.solve(any_problem)
    assert found.status is SolverStatus.OPTIMAL
    assert found.deadline_s == pytest.approx(solve_bandwidth(any_problem).deadline_s, rel=1e-6)
    assert found.shares.sum() <= 1 + 1e-15


def test_trust_region_on_many_devices() -> None:
    any_problem = random_problem(np.random.default_rng(3), 300)
    found = TRUST_REGION.solve(any_problem)
    assert found.status is SolverStatus.OPTIMAL
    assert abs(found.gap) <= 1e-6


def test_both_are_newton_near_the_best() -> None:
    # 1 + 1 / b = 2 / (1 - b) at b = sqrt(2) - 1, near enough to 1/2
    two = problem([1.0, 0.0], [1.0, 2.0])
    for solver in (PUBLISHED, TRUST_REGION):
        found = solver.solve(two)
        assert found.status is SolverStatus.OPTIMAL
        assert found.shares == pytest.approx([2**0.5 - 1, 2 - 2**0.5], rel=1e-9)
        # the error squares: 1e-1, 1e-2, 1e-4, 1e-8, 1e-16
        assert found.steps <= 6


def test_published_gives_a_device_nothing() -> None:
    # at even shares the lines 4 - 4 b and 14 - 4 b of a share b meet at none in [0, 1]; the
    # delays 1 / b and 10 + 1 / b do, at 6 + sqrt(26) seconds
    two = problem([0.0, 10.0], [1.0, 1.0])
    found = PUBLISHED.solve(two)
    assert found.status is SolverStatus.ZERO_SHARE
    assert found.deadline_s == np.inf
    assert found.gap == np.inf
    assert found.binding.tolist() == [0]
    best_s = 6 + 26**0.5
    assert found.lower_bound_s <= best_s * (1 + 1e-15)
    assert TRUST_REGION.solve(two).deadline_s == pytest.approx(best_s, rel=1e-6)


def test_published_fails_where_shares_differ_widely() -> None:
    failed = [
        PUBLISHED.solve(random_problem(np.random.default_rng(seed), 20)).status
        is not SolverStatus.OPTIMAL
        for seed in range(20)
    ]
    # bits over a factor of 100: shares differ far more than twofold
    assert sum(failed) >= 15


def test_too_few_steps_are_said() -> None:
    two = problem([1.0, 0.0], [1.0, 2.0])
    assert replace(PUBLISHED, most_steps=2).solve(two).status is SolverStatus.NOT_CONVERGED
    assert replace(TRUST_REGION, most_steps=2).solve(two).status is SolverStatus.NOT_CONVERGED


def test_caps_below_the_band() -> None:
    capped = problem([0.0, 0.0], [1.0, 4.0], most=0.4)
    assert PUBLISHED.solve(capped).status is SolverStatus.INFEASIBLE
    found = TRUST_REGION.solve(capped)
    assert found.status is SolverStatus.OPTIMAL
    assert found.deadline_s == pytest.approx(10.0, rel=1e-9)
    assert found.unused == pytest.approx(0.2, rel=1e-9)


def test_a_start_without_a_share() -> None:
    two = problem([0.0, 0.0], [1.0, 1.0])
    for solver in (PUBLISHED, TRUST_REGION):
        found = solver.solve(two, np.array([0.0, 1.0]))
        assert (found.status, found.steps) == (SolverStatus.ZERO_SHARE, 0)


def test_idle_and_unserved_devices() -> None:
    four = with_rates(
        problem([1.0, 0.0, 0.0, 7.0], [0.0, 2.0, 3.0, 1.0]),
        ProportionalRates(np.array([1.0, 1.0, 1.0, 0.0])),
    )
    for solver in (PUBLISHED, TRUST_REGION):
        found = solver.solve(four)
        assert found.status is SolverStatus.OPTIMAL
        assert found.deadline_s == pytest.approx(5.0, rel=1e-9)
        assert (found.shares[0], found.shares[3]) == (0.0, 0.0)
        assert (found.idle.tolist(), found.unserved.tolist()) == ([0], [3])
        assert solver.solve(problem([1.0], [0.0])).deadline_s == 1.0


def test_an_idle_device_may_be_the_last() -> None:
    found = TRUST_REGION.solve(problem([9.0, 0.0, 0.0], [0.0, 2.0, 3.0]))
    assert (found.status, found.deadline_s) == (SolverStatus.OPTIMAL, 9.0)
    assert found.limited_by is LimitedBy.FIXED
