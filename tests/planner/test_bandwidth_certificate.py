"""The bound: below every deadline for any multipliers, and at the best one for the best."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.planner.bandwidth import BandwidthProblem, lower_bound_s, solve_bandwidth, tangents_at
from planner.problems import RootRates, problem, problems, with_rates

seeds = st.integers(0, 2**32 - 1)
# at a hundredth of the cap a line is some hundred times as high as the deadline; over the bandwidth
# it falls a hundred times as far: a dozen such terms, each rounded by a few 1e-16
ROUNDING = 1e-10


def _feasible(rng: np.random.Generator, any_problem: BandwidthProblem) -> np.ndarray:
    """None below a hundredth of the bandwidth."""
    devices = any_problem.devices
    shares = 0.8 * rng.dirichlet(np.ones(devices)) + 0.2 / devices
    return np.minimum(shares, any_problem.most)


@given(problems(), seeds, st.floats(0, 3))
def test_holds_for_any_multipliers(any_problem: BandwidthProblem, seed: int, price: float) -> None:
    rng = np.random.default_rng(seed)
    deadline_s = any_problem.deadline_s(_feasible(rng, any_problem))
    points = any_problem.most * rng.uniform(0.01, 1, any_problem.devices)
    multipliers = rng.dirichlet(np.full(any_problem.devices, rng.choice([0.1, 1.0])))
    bound_s = tangents_at(any_problem, points).dual_bound_s(multipliers, price * deadline_s)
    assert bound_s <= deadline_s * (1 + ROUNDING)


@given(problems(), seeds)
def test_holds_at_any_shares(any_problem: BandwidthProblem, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = _feasible(rng, any_problem), _feasible(rng, any_problem)
    assert lower_bound_s(any_problem, one) <= any_problem.deadline_s(other) * (1 + ROUNDING)


@given(problems(), seeds)
def test_wrong_shares_show_a_gap(any_problem: BandwidthProblem, seed: int) -> None:
    wrong = _feasible(np.random.default_rng(seed), any_problem)
    best_s = solve_bandwidth(any_problem).deadline_s
    # never above the best, so that the gap is at least what is lost
    assert lower_bound_s(any_problem, wrong) <= best_s * (1 + ROUNDING)


def test_by_hand() -> None:
    # 1 / b and 4 / b end together at 5 s; a second of deadline frees b^2 / c = 1/25 and 4/25 of
    # band: a price of 5 s, multipliers 1/5 and 4/5
    two = problem([0.0, 0.0], [1.0, 4.0])
    best = np.array([0.2, 0.8])
    assert lower_bound_s(two, best) == pytest.approx(5.0, rel=1e-15)
    # at even shares the lines are 4 - 4 b and 16 - 16 b, which a price levels at 4 / 1.25: the
    # multipliers 4/5 and 1/5 give 0.8 * 4 + 0.2 * 16 - 3.2
    assert lower_bound_s(two, np.array([0.5, 0.5])) == pytest.approx(4.0, rel=1e-15)


def test_what_a_cap_allows_bounds_too() -> None:
    capped = problem([0.0, 0.0], [1.0, 4.0], most=[1.0, 0.4])
    assert lower_bound_s(capped, np.array([0.6, 0.4])) == 10.0


def test_devices_without_a_rate_do_not_count() -> None:
    rates = RootRates()
    alone = with_rates(problem([1.0], [1e6]), rates)
    assert lower_bound_s(alone, np.ones(1)) == pytest.approx(2.0, rel=1e-15)
    idle = replace(alone, uplink_bits=np.zeros(1))
    assert lower_bound_s(idle, np.zeros(1)) == 1.0
    assert lower_bound_s(with_rates(alone, RootRates(0.0)), np.zeros(1)) == np.inf
