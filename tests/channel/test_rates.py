"""Shares of the bandwidth that fit and that do not."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.channel.rates import check_shares
from cutlayer.errors import ConfigError


@given(st.integers(1, 1000))
def test_even_shares_always_fit(devices: int) -> None:
    check_shares((1.0 / devices,) * devices, devices)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((), "0 bandwidth shares for 2 devices"),
        ((0.5,), "1 bandwidth shares for 2 devices"),
        ((0.5, 0.6), r"sum to 1\.1, more than the bandwidth"),
        ((0.5, 0.0), "must be positive and finite, not 0"),
        ((-0.5, 0.5), "must be positive"),
        ((0.5, math.nan), "must be positive"),
        ((0.5, math.inf), "must be positive"),
    ],
)
def test_shares_that_cannot_be(shares: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_shares(shares, 2)
