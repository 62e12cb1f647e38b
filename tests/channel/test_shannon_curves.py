"""Rates as functions of the share: increasing, concave, and their slopes are their derivatives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.channel.rates import (
    ConstantPower,
    ConstantSnr,
    ProportionalRates,
    RateCurve,
    ScaledRates,
    ShannonRates,
)
from cutlayer.errors import ConfigError

RATIOS = np.array([-60.0, -10.0, 0.0, 17.0, 40.0])
CURVES = (
    ProportionalRates(np.array([1.0, 2.0, 4.0, 8.0, 16.0])),
    ShannonRates(ConstantSnr(), 5e6, RATIOS),
    ShannonRates(ConstantPower(), 5e6, RATIOS),
    ScaledRates(ShannonRates(ConstantPower(), 5e6, RATIOS), 1.1),
)
shares = st.floats(1e-3, 0.999)


@pytest.mark.parametrize("curve", CURVES)
@given(shares)
def test_slope_is_the_derivative(curve: RateCurve, share: float) -> None:
    at, step = np.full(5, share), 1e-6 * share
    difference = curve.rate_bit_per_s(at + step) - curve.rate_bit_per_s(at - step)
    # rounding of two rates, 2e-16 of them each, over twice the step: 1e-10 of rate / share, which
    # is the slope's size but where the ratio is small and the rate hardly grows any more
    assert difference / (2 * step) == pytest.approx(
        curve.slope_bit_per_s(at), rel=1e-6, abs=1e-9 * curve.rate_bit_per_s(at).max() / share
    )


@pytest.mark.parametrize("curve", CURVES)
@given(shares, shares)
def test_rates_are_increasing_and_concave(curve: RateCurve, one: float, other: float) -> None:
    low, high = np.full(5, min(one, other)), np.full(5, max(one, other))
    rounding = 1e-12 * curve.rate_bit_per_s(high)
    assert (curve.rate_bit_per_s(low) <= curve.rate_bit_per_s(high) + rounding).all()
    tangent = curve.rate_bit_per_s(low) + curve.slope_bit_per_s(low) * (high - low)
    assert (curve.rate_bit_per_s(high) <= tangent + rounding).all()


def test_slopes_of_weak_links_do_not_cancel() -> None:
    # x = 1e-6: B x^2 / (2 ln 2); the plain difference of the two terms is off by 1e-5 there
    curve = ShannonRates(ConstantPower(), 1.0, np.array([-60.0]))
    assert curve.slope_bit_per_s(np.ones(1)) == pytest.approx(0.5e-12 / np.log(2), rel=2e-6)


def test_a_band_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="bandwidth must be positive"):
        ShannonRates(ConstantSnr(), 0.0, RATIOS)


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf")])
def test_a_measured_rate_is_a_number_from_0_on(rate: float) -> None:
    with pytest.raises(ConfigError, match="a rate must be at least 0 and finite, not"):
        ProportionalRates(np.array([1.0, rate]))
