"""The exact shares: certified, against other methods, and under the laws that the best obeys."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize

from cutlayer.channel.rates import ConstantPower, ProportionalRates, RateCurves, ShannonRates
from cutlayer.planner.bandwidth import (
    BandwidthProblem,
    BandwidthSolution,
    LimitedBy,
    SolverStatus,
    solve_bandwidth,
)
from examples import at_most
from planner.problems import (
    RootRates,
    extreme_problem,
    problem,
    problems,
    random_problem,
    with_rates,
)

# sums over a dozen devices, each term a few 1e-16 of it; shares that search leaves by 1e-14
ROUNDING = 1e-12


def _check(any_problem: BandwidthProblem, found: BandwidthSolution) -> None:
    """Feasible, consistent and certified."""
    assert found.status is SolverStatus.OPTIMAL
    assert (found.shares >= 0).all()
    assert (found.shares <= any_problem.most).all()
    assert found.shares.sum() <= 1 + 1e-15
    assert found.deadline_s == any_problem.deadline_s(found.shares)
    # a certificate of up to 1000 terms, each rounded by a few 1e-16 of it
    assert abs(found.gap) <= 1e-12


@given(problems())
@at_most(50)
def test_certified(any_problem: BandwidthProblem) -> None:
    _check(any_problem, solve_bandwidth(any_problem))


def test_certified_on_many() -> None:
    for number in range(200):
        rng = np.random.default_rng([7, number])
        devices = int(np.exp(rng.uniform(0, np.log(1001))))
        any_problem = random_problem(rng, devices, caps=bool(number & 1), power=bool(number & 2))
        _check(any_problem, solve_bandwidth(any_problem))


def test_by_hand() -> None:
    found = solve_bandwidth(problem([0.0, 0.0], [1.0, 4.0]))
    assert found.shares == pytest.approx([0.2, 0.8], rel=1e-15)
    assert found.deadline_s == pytest.approx(5.0, rel=1e-15)
    assert found.binding.tolist() == [0, 1]
    assert found.limited_by is LimitedBy.BANDWIDTH
    assert found.unused == pytest.approx(0.0, abs=1e-15)


def test_a_cap_that_binds_leaves_its_band_to_the_next() -> None:
    # the second ends at 4 / 0.4 = 10 s; of the rest the others make the most: 1 / b and 2 / b
    found = solve_bandwidth(problem([0.0, 0.0, 0.0], [1.0, 4.0, 2.0], most=[1.0, 0.4, 1.0]))
    assert found.shares == pytest.approx([0.2, 0.4, 0.4], rel=1e-14)
    assert found.deadline_s == 10.0
    assert found.binding.tolist() == [1]
    assert found.limited_by is LimitedBy.CAP
    assert found.unused == pytest.approx(0.0, abs=1e-15)


def test_caps_below_the_band_leave_some_unused() -> None:
    found = solve_bandwidth(problem([0.0, 1.0], [1.0, 1.0], most=[0.25, 0.5]))
    assert found.shares.tolist() == [0.25, 0.5]
    assert found.unused == 0.25
    assert (found.limited_by, found.gap) == (LimitedBy.CAP, 0.0)


def test_idle_devices_get_nothing_and_may_be_the_last() -> None:
    found = solve_bandwidth(problem([9.0, 0.0, 0.0], [0.0, 1.0, 4.0]))
    assert found.idle.tolist() == [0]
    assert found.shares == pytest.approx([0.0, 0.2, 0.8], rel=1e-15)
    assert found.deadline_s == 9.0
    assert (found.limited_by, found.binding.tolist(), found.gap) == (LimitedBy.FIXED, [0], 0.0)


def test_unserved_devices_are_named_and_left_out() -> None:
    three = with_rates(
        problem([0.0, 9.0, 0.0], [1.0, 1.0, 4.0]), ProportionalRates(np.array([1.0, 0.0, 1.0]))
    )
    found = solve_bandwidth(three)
    assert found.unserved.tolist() == [1]
    assert found.shares == pytest.approx([0.2, 0.0, 0.8], rel=1e-15)
    assert found.deadline_s == pytest.approx(5.0, rel=1e-15)
    assert found.binding.tolist() == [0, 2]


def test_nobody_to_serve() -> None:
    idle = solve_bandwidth(problem([1.0, 3.0], [0.0, 0.0]))
    assert (idle.status, idle.deadline_s, idle.lower_bound_s) == (SolverStatus.OPTIMAL, 3.0, 3.0)
    assert idle.shares.tolist() == [0.0, 0.0]
    lost = solve_bandwidth(with_rates(problem([1.0], [1.0]), ProportionalRates(np.zeros(1))))
    assert (lost.status, lost.deadline_s) == (SolverStatus.NOBODY_SERVED, np.inf)
    assert (lost.limited_by, lost.gap) == (LimitedBy.NOTHING, 0.0)


@given(st.floats(0, 1e6), st.floats(1e-6, 1e6), st.floats(1e-3, 1))
def test_one_device_has_what_it_may(fixed_s: float, share_s: float, most: float) -> None:
    found = solve_bandwidth(problem([fixed_s], [share_s], most=most))
    assert found.shares.tolist() == [most]
    assert found.deadline_s == pytest.approx(fixed_s + share_s / most, rel=1e-15)
    assert found.limited_by is (LimitedBy.CAP if most < 1 else LimitedBy.BANDWIDTH)


def test_alike_devices_share_evenly() -> None:
    for most in (1.0, 1 / 7):
        found = solve_bandwidth(problem([2.0] * 7, [3.0] * 7, most=most))
        assert found.shares == pytest.approx(1 / 7, rel=1e-15)
        assert found.binding.tolist() == list(range(7))


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_extremes(seed: int, devices: int) -> None:
    any_problem = extreme_problem(np.random.default_rng(seed), devices)
    found = solve_bandwidth(any_problem)
    if found.status is not SolverStatus.NOBODY_SERVED:
        _check(any_problem, found)
    assert (found.shares > 0).tolist() == any_problem.served.tolist()


def test_transfers_far_below_the_fixed_seconds() -> None:
    # the last to start has 1e-9 s beside 1e6: its share is right although 1e6 + 1e-9 is not
    found = solve_bandwidth(problem([1e6, 0.0], [1e-9, 2e5]))
    assert found.shares == pytest.approx([0.8, 0.2], rel=1e-9)
    _check(problem([1e6, 0.0], [1e-9, 2e5]), found)


@pytest.mark.parametrize("devices", [2, 5, 30])
def test_the_root_of_the_deadline(devices: int) -> None:
    rng = np.random.default_rng(devices)
    fixed_s, share_s = rng.uniform(1, 100, devices), 10.0 ** rng.uniform(-2, 2, devices)
    least_s, most_s = (fixed_s + share_s).max(), fixed_s.max() + devices * share_s.max()
    deadline_s = brentq(
        lambda time_s: (share_s / (time_s - fixed_s)).sum() - 1, least_s, most_s, rtol=1e-15
    )
    found = solve_bandwidth(problem(fixed_s.tolist(), share_s.tolist()))
    # brentq's, and 30 terms of the sum
    assert found.deadline_s == pytest.approx(deadline_s, rel=1e-14)


@pytest.mark.parametrize("seed", range(6))
def test_slsqp(seed: int) -> None:
    any_problem = random_problem(np.random.default_rng(seed), 5, caps=seed % 2 == 1, power=True)
    unit_s = any_problem.deadline_s(any_problem.most / 5)
    by_scipy = minimize(
        lambda x: x[-1],
        np.append(any_problem.most / 5, 1.0),
        bounds=[(1e-6, most) for most in any_problem.most] + [(0, None)],
        constraints=[
            {"type": "ineq", "fun": lambda x: 1 - x[:-1].sum()},
            {
                "type": "ineq",
                "fun": lambda x: (
                    x[-1] - any_problem.weights * any_problem.delays_s(x[:-1]) / unit_s
                ),
            },
        ],
        options={"ftol": 1e-12, "maxiter": 500},
    )
    # SLSQP meets its constraints, and so the deadline, by about 1e-9 with numerical slopes
    assert solve_bandwidth(any_problem).deadline_s == pytest.approx(
        by_scipy.x[-1] * unit_s, rel=1e-7
    )


def test_constant_power_by_brute_force() -> None:
    rates = ShannonRates(ConstantPower(), 5e6, np.array([3.0, 20.0]))
    two = replace(problem([1.0, 2.0], [3e7, 5e7]), curves=RateCurves(rates, rates))
    found = solve_bandwidth(two)
    first = np.linspace(0.001, 0.999, 100_001)
    ends = np.array([two.deadline_s(np.array([b, 1 - b])) for b in first[::100]])
    near = np.linspace(*first[::100][[ends.argmin() - 1, ends.argmin() + 1]], 1001)
    finest = min(two.deadline_s(np.array([b, 1 - b])) for b in near)
    # the second grid is 2e-6 of the bandwidth wide; seconds change by some ten seconds per band
    assert found.deadline_s <= finest
    assert found.deadline_s == pytest.approx(finest, rel=1e-5)


def test_any_concave_rate() -> None:
    # 1 / sqrt(b) and 2 / sqrt(b) end together at b = 1/5, 4/5
    found = solve_bandwidth(with_rates(problem([0.0, 0.0], [1e6, 2e6]), RootRates()))
    assert found.shares == pytest.approx([0.2, 0.8], rel=1e-14)


@given(problems(), st.floats(0.01, 100))
@at_most(50)
def test_time_has_no_unit(any_problem: BandwidthProblem, times: float) -> None:
    longer = replace(
        any_problem,
        fixed_s=any_problem.fixed_s * times,
        uplink_bits=any_problem.uplink_bits * times,
        downlink_bits=any_problem.downlink_bits * times,
    )
    one, other = solve_bandwidth(any_problem), solve_bandwidth(longer)
    assert other.deadline_s == pytest.approx(times * one.deadline_s, rel=ROUNDING)
    # a share follows from seconds that are rounded; where the rate hardly grows with it, by more
    assert other.shares == pytest.approx(one.shares, rel=1e-8)


@given(problems(), st.floats(0, 1000))
@at_most(50)
def test_a_later_start_shifts_the_end(any_problem: BandwidthProblem, later_s: float) -> None:
    even = replace(any_problem, weights=np.ones(any_problem.devices))
    one = solve_bandwidth(even)
    other = solve_bandwidth(replace(even, fixed_s=even.fixed_s + later_s))
    assert other.deadline_s == pytest.approx(one.deadline_s + later_s, rel=ROUNDING)


@given(problems(), st.floats(0.01, 100))
@at_most(50)
def test_weights_count_against_each_other_only(any_problem: BandwidthProblem, times: float) -> None:
    one = solve_bandwidth(any_problem)
    other = solve_bandwidth(replace(any_problem, weights=any_problem.weights * times))
    assert other.deadline_s == pytest.approx(times * one.deadline_s, rel=ROUNDING)


def test_a_weight_of_two_halves_the_time() -> None:
    any_problem = problem([0.0, 0.0], [1.0, 1.0], weights=[2.0, 1.0])
    delays_s = any_problem.delays_s(solve_bandwidth(any_problem).shares)
    assert 2 * delays_s[0] == pytest.approx(delays_s[1], rel=1e-15)


@given(problems(), st.integers(0, 2**32 - 1))
@at_most(50)
def test_order_does_not_matter(any_problem: BandwidthProblem, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(any_problem.devices)
    rates = any_problem.curves.uplink
    assert isinstance(rates, ShannonRates)
    shuffled = with_rates(
        BandwidthProblem(
            any_problem.fixed_s[order],
            any_problem.uplink_bits[order],
            any_problem.downlink_bits[order],
            any_problem.curves,
            any_problem.most[order],
            any_problem.weights[order],
        ),
        replace(rates, snr_db=rates.snr_db[order]),
    )
    one, other = solve_bandwidth(any_problem), solve_bandwidth(shuffled)
    assert other.deadline_s == pytest.approx(one.deadline_s, rel=ROUNDING)


@given(problems(), st.integers(0, 11), st.floats(1, 10))
@at_most(50)
def test_more_to_send_or_a_lower_cap_never_helps(
    any_problem: BandwidthProblem, device: int, times: float
) -> None:
    one_more = np.ones(any_problem.devices)
    one_more[device % any_problem.devices] = times
    deadline_s = solve_bandwidth(any_problem).deadline_s * (1 - ROUNDING)
    more = replace(any_problem, uplink_bits=any_problem.uplink_bits * one_more)
    assert solve_bandwidth(more).deadline_s >= deadline_s
    lower = replace(any_problem, most=any_problem.most / one_more)
    assert solve_bandwidth(lower).deadline_s >= deadline_s


@given(problems())
@at_most(50)
def test_nobody_is_slower_than_need_be(any_problem: BandwidthProblem) -> None:
    """All that are below their caps end together, and those at their caps no earlier."""
    found = solve_bandwidth(any_problem)
    ends_s = any_problem.weights * any_problem.delays_s(found.shares)
    below = found.shares < any_problem.most * (1 - 1e-9)
    if below.any():
        together_s = ends_s[below].max()
        # shares are made to fit by 1e-15; the deadline stands on them by a few as much
        assert ends_s[below] == pytest.approx(together_s, rel=1e-9)
        assert (ends_s[~below] >= together_s * (1 - 1e-9)).all()
        assert found.unused <= 1e-12
