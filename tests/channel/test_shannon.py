"""Rates against values worked by hand, and the laws of a share."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.channel.rates import ConstantPower, ConstantSnr, RateLaw, shannon_rate_bit_per_s
from cutlayer.errors import ConfigError

LAWS = (ConstantSnr(), ConstantPower())
ratios = st.floats(-40, 60)
shares = st.floats(1e-4, 1.0)


def rate(law: RateLaw, share: float, bandwidth_hz: float, snr_db: float) -> float:
    """One device's."""
    return float(law.rate_bit_per_s(np.array([share]), bandwidth_hz, np.array([snr_db]))[0])


def test_rate_by_hand() -> None:
    # 17 dB is 50.12; log2(51.12) = 5.6758; the paper's 5 MHz carry 28.38 Mbit/s
    assert shannon_rate_bit_per_s(5e6, 17.0) == pytest.approx(28.379e6, rel=1e-4)
    assert shannon_rate_bit_per_s(1e6, 0.0) == 1e6


def test_laws_by_hand() -> None:
    # 0 dB on a quarter of 4 MHz: 1e6 log2(2) = 1e6; with all power on it, a ratio of 4:
    # 1e6 log2(5) = 2.321928e6
    assert rate(ConstantSnr(), 0.25, 4e6, 0.0) == pytest.approx(1e6, rel=1e-15)
    assert rate(ConstantPower(), 0.25, 4e6, 0.0) == pytest.approx(2.321928e6, rel=1e-6)


def test_a_rate_for_each_device() -> None:
    share, snr_db = np.array([0.5, 0.25]), np.array([0.0, 10 * math.log10(3)])
    # 0.5 log2(2) = 0.5, 0.25 log2(4) = 0.5; 0.5 log2(3), 0.25 log2(13)
    assert ConstantSnr().rate_bit_per_s(share, 1.0, snr_db) == pytest.approx([0.5, 0.5])
    assert ConstantPower().rate_bit_per_s(share, 1.0, snr_db) == pytest.approx(
        [0.792481, 0.925110], abs=1e-6
    )


@pytest.mark.parametrize("law", LAWS)
@given(st.floats(1.0, 1e9), ratios)
def test_the_whole_band_has_one_rate(law: RateLaw, bandwidth_hz: float, snr_db: float) -> None:
    whole = shannon_rate_bit_per_s(bandwidth_hz, snr_db)
    # power, log1p, quotient and product, each within a few units in the last place
    assert rate(law, 1.0, bandwidth_hz, snr_db) == pytest.approx(whole, rel=1e-14)


@pytest.mark.parametrize("law", LAWS)
@given(shares, shares, ratios)
def test_a_larger_share_carries_more(
    law: RateLaw, share: float, other: float, snr_db: float
) -> None:
    low, high = sorted((share, other))
    # equal but for the rounding of a few operations where power, not bandwidth, is scarce
    assert rate(law, low, 5e6, snr_db) <= rate(law, high, 5e6, snr_db) * (1 + 1e-14)


@given(shares, ratios)
def test_power_on_a_share_never_carries_less(share: float, snr_db: float) -> None:
    constant_snr = rate(ConstantSnr(), share, 5e6, snr_db)
    constant_power = rate(ConstantPower(), share, 5e6, snr_db)
    assert constant_power >= constant_snr * (1 - 1e-14)
    # and never more than with endless bandwidth: P / (N0 ln 2)
    limit = 5e6 * 10 ** (snr_db / 10) / math.log(2)
    assert constant_power <= limit * (1 + 1e-14)


@given(shares, ratios)
def test_constant_snr_is_linear_in_the_share(share: float, snr_db: float) -> None:
    whole = shannon_rate_bit_per_s(5e6, snr_db)
    assert rate(ConstantSnr(), share, 5e6, snr_db) == pytest.approx(share * whole, rel=1e-14)


def test_the_weakest_link_carries_something() -> None:
    # log2(1 + x) is 0 for x = 1e-20, x / ln 2 is not
    assert shannon_rate_bit_per_s(1.0, -200.0) == pytest.approx(1e-20 / math.log(2), rel=1e-12)


@pytest.mark.parametrize(
    ("bandwidth_hz", "snr_db"),
    [
        (0.0, 1.0),
        (-5.0, 1.0),
        (math.inf, 1.0),
        (math.nan, 1.0),
        (1.0, math.nan),
        (1.0, math.inf),
        (1.0, 301.0),
    ],
)
def test_rates_that_cannot_be(bandwidth_hz: float, snr_db: float) -> None:
    with pytest.raises(ConfigError, match="must be"):
        shannon_rate_bit_per_s(bandwidth_hz, snr_db)
