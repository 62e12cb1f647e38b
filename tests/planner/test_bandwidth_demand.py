"""The inverse of seconds on a share, for every kind of rate."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.channel.rates import (
    ConstantPower,
    ConstantSnr,
    ProportionalRates,
    RateCurve,
    RateCurves,
    ShannonRates,
)
from cutlayer.planner.bandwidth import share_demand
from planner.problems import RootRates, problem, with_rates

RATIOS = np.array([-60.0, -10.0, 17.0, 60.0])
RATES = (
    ProportionalRates(np.array([1.0, 2.0, 4.0, 8.0])),
    ShannonRates(ConstantSnr(), 5e6, RATIOS),
    ShannonRates(ConstantPower(), 5e6, RATIOS),
    RootRates(),
)
FOUR = problem([0.0] * 4, [1e6] * 4)


@pytest.mark.parametrize("rates", RATES)
@given(st.floats(1.0, 1e6), st.floats(1e-6, 1.0))
def test_shares_take_the_seconds_wanted(rates: RateCurve, times: float, guess: float) -> None:
    demand = share_demand(with_rates(FOUR, rates))
    seconds = demand.least_s * times
    shares = demand.needed(seconds, np.full(4, guess)).shares
    assert (shares <= 1).all()
    # seconds are rounded by a few 1e-16, as the search leaves them by 1e-14 at most
    assert demand.problem.transfer_s(shares) == pytest.approx(seconds, rel=2e-14)


@pytest.mark.parametrize(
    ("rates", "closed"), [*zip(RATES, (True, True, False, False), strict=True)]
)
def test_which_inverse_is_closed(rates: RateCurve, closed: bool) -> None:
    assert share_demand(with_rates(FOUR, rates)).proportional is closed


def test_both_ways_at_once() -> None:
    both = replace(
        FOUR, downlink_bits=np.full(4, 3e6), curves=RateCurves(RootRates(), RootRates(2e6))
    )
    # 1 / sqrt(b) + 1.5 / sqrt(b) = 5 s at b = 1/4
    needed = share_demand(both).needed(np.full(4, 5.0), np.ones(4))
    assert needed.shares == pytest.approx(0.25, rel=1e-14)
    # half a per cent more seconds for a per cent less share
    assert needed.elasticity == pytest.approx(0.5, rel=1e-14)


def test_nothing_for_those_who_cannot_or_need_not() -> None:
    some = with_rates(
        problem([0.0] * 3, [1.0, 0.0, 1.0]), ProportionalRates(np.array([1.0, 1.0, 0.0]))
    )
    assert share_demand(some).needed(np.full(3, 2.0), np.ones(3)).shares.tolist() == [0.5, 0.0, 0.0]
    power = ShannonRates(ConstantPower(), 1.0, np.array([0.0, 0.0, -np.inf]))
    # at 0 dB the whole bandwidth carries 1 bit/s
    searched = share_demand(with_rates(some, power)).needed(np.ones(3), np.ones(3))
    assert searched.shares == pytest.approx([1.0, 0.0, 0.0], rel=1e-14)
