"""Allocations: what each gives, what they are told, and that a share is always positive."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.channel.rates import ProportionalRates, RateCurves, check_shares
from cutlayer.channel.traces import Trace, TraceChannel
from cutlayer.errors import ConfigError
from cutlayer.planner.allocation import (
    Allocation,
    FixedAllocation,
    ObservedRound,
    RandomAllocation,
    TwoTimescaleAllocation,
    bandwidth_problem,
    best_shares,
    even_allocation,
)
from cutlayer.rounds.work import SharingRules

RULES = SharingRules()
ONES = (1.0, 1.0, 1.0)


def curves(*whole_bit_per_s: float) -> RateCurves:
    rates = ProportionalRates(np.array(whole_bit_per_s))
    return RateCurves(rates, rates)


def observed(compute_s: list[float], uplink_bits: list[float]) -> ObservedRound:
    nothing = np.zeros(len(compute_s))
    return ObservedRound(np.array(compute_s), nothing, np.array(uplink_bits), nothing)


SEEN = observed([1.0, 2.0, 3.0], [10.0, 20.0, 30.0])


@pytest.mark.parametrize(
    "allocation",
    [
        even_allocation(3),
        FixedAllocation((0.2, 0.3, 0.4)),
        RandomAllocation(3, seed=1),
        TwoTimescaleAllocation(RULES, ONES),
    ],
)
@given(
    st.integers(1, 10**6),
    st.lists(st.sampled_from([0.0, 1e6, 1e9]), min_size=3, max_size=3),
    st.lists(st.floats(1.0, 1e9), min_size=3, max_size=3),
)
def test_every_share_is_positive_and_they_fit_the_band(
    allocation: Allocation, number: int, bits: list[float], band: list[float]
) -> None:
    """Idle devices among them, and none that sends anything."""
    seen = observed([1.0, 2.0, 3.0], bits)
    shares = allocation.shares(number, seen, curves(*band))
    check_shares(shares, 3)
    assert shares == allocation.shares(number, seen, curves(*band))


def test_even_shares_fill_the_band() -> None:
    assert even_allocation(4).value == (0.25, 0.25, 0.25, 0.25)


def test_random_shares_differ_by_round_and_seed_and_fill_the_band() -> None:
    at = curves(1.0, 1.0, 1.0)
    drawn = [
        RandomAllocation(3, seed).shares(number, SEEN, at) for seed in (0, 1) for number in (1, 2)
    ]
    assert len(set(drawn)) == 4
    # three divisions and two sums, each rounded
    assert all(sum(shares) == pytest.approx(1.0, abs=1e-15) for shares in drawn)


def test_a_device_s_mean_random_share_is_even() -> None:
    """The mean of 4000 shares whose deviation is below 0.2: within 4 x 0.2 / 63 = 0.013."""
    drawn = [
        RandomAllocation(3, 7).shares(number, SEEN, curves(1.0, 1.0, 1.0))
        for number in range(1, 4001)
    ]
    np.testing.assert_allclose(np.mean(drawn, axis=0), 1 / 3, atol=0.013)


def test_two_devices_by_hand() -> None:
    """1 + 2 / (4 b) = 2 + 3 / (6 (1 - b)): b = 1 / (2 (T - 1)), and both sum to 1 at T."""
    seen = observed([1.0, 2.0], [2.0, 3.0])
    shares = TwoTimescaleAllocation(RULES, (1.0, 1.0)).shares(1, seen, curves(4.0, 6.0))
    # 1 / (2 x) + 1 / (2 (x - 1)) = 1 at x = 1 + 1 / sqrt(2)
    assert shares[0] == pytest.approx(1 / (2 + 2**0.5), rel=1e-12)
    assert shares[1] == pytest.approx(1 / 2**0.5, rel=1e-12)


@given(st.lists(st.floats(1.0, 1e3), min_size=3, max_size=3))
def test_two_time_scales_end_no_later_than_even_and_random_shares(band: list[float]) -> None:
    at = curves(*band)
    problem = bandwidth_problem(SEEN, at, RULES, np.ones(3))
    delays = [
        problem.delays_s(np.array(allocation.shares(1, SEEN, at))).max()
        for allocation in (
            TwoTimescaleAllocation(RULES, ONES),
            even_allocation(3),
            RandomAllocation(3, 0),
        )
    ]
    # the solver's own certificate is at 1e-9
    assert delays[0] <= min(delays[1:]) * (1 + 1e-9)


def test_a_largest_share_is_kept() -> None:
    shares = TwoTimescaleAllocation(RULES, (1.0, 1.0, 0.3)).shares(1, SEEN, curves(9.0, 9.0, 1.0))
    assert shares[2] == pytest.approx(0.3, rel=1e-12)
    with pytest.raises(ConfigError, match="most must be above 0 and at most 1"):
        TwoTimescaleAllocation(RULES, (1.0, 1.0, 1.5)).shares(1, SEEN, curves(1.0, 1.0, 1.0))


def test_a_device_with_nothing_to_send_costs_the_others_nothing_that_counts() -> None:
    seen = observed([1.0, 2.0, 3.0], [10.0, 20.0, 0.0])
    at = curves(8.0, 8.0, 8.0)
    shares = TwoTimescaleAllocation(RULES, ONES).shares(1, seen, at)
    busy = observed([1.0, 2.0], [10.0, 20.0])
    alone = TwoTimescaleAllocation(RULES, (1.0, 1.0)).shares(1, busy, curves(8.0, 8.0))
    assert 0 < shares[2] < 1e-9
    np.testing.assert_allclose(shares[:2], alone, rtol=1e-9)


def test_on_a_constant_channel_both_time_scales_are_one() -> None:
    traces = tuple(Trace(np.array([0.0, 1.0]), np.array([rate])) for rate in (5.0, 9.0, 2.0))
    channel = TraceChannel(traces, traces)
    static = best_shares(SEEN, channel.mean_curves(), RULES, ONES)
    for number in (1, 2, 30):
        curves_now = channel.curves(number, 10.0 * number)
        assert TwoTimescaleAllocation(RULES, ONES).shares(number, SEEN, curves_now) == static
