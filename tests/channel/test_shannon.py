"""Rates against values worked by hand, and the laws of a share."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.channel.shannon import link_rates, shannon_rate_bit_per_s
from cutlayer.errors import ConfigError
from cutlayer.spec import Device, Link


def _device(up_db: float = 17.0, down_db: float = 17.0) -> Device:
    return Device("d", 1e12, up_db, down_db)


def test_rate_by_hand() -> None:
    # 17 dB is 50.12; log2(51.12) = 5.6758; the paper's 5 MHz carry 28.38 Mbit/s
    assert shannon_rate_bit_per_s(5e6, 17.0) == pytest.approx(28.379e6, rel=1e-4)
    assert shannon_rate_bit_per_s(1e6, 0.0) == 1e6


@given(st.floats(1.0, 1e9), st.floats(-20, 40), st.floats(0.01, 1.0))
def test_rate_is_linear_in_the_share(bandwidth_hz: float, snr_db: float, share: float) -> None:
    whole = shannon_rate_bit_per_s(bandwidth_hz, snr_db)
    # two roundings each side
    assert shannon_rate_bit_per_s(share * bandwidth_hz, snr_db) == pytest.approx(
        share * whole, rel=1e-14
    )


def test_each_device_has_its_share_and_the_weakest_sets_the_broadcast() -> None:
    devices = (_device(17.0, 20.0), _device(10.0, 3.0))
    first, second = link_rates(Link(5e6, (0.25, 0.75)), devices)
    assert first.uplink_bit_per_s == shannon_rate_bit_per_s(1.25e6, 17.0)
    assert second.downlink_bit_per_s == shannon_rate_bit_per_s(3.75e6, 3.0)
    assert first.broadcast_bit_per_s == second.broadcast_bit_per_s
    assert first.broadcast_bit_per_s == shannon_rate_bit_per_s(5e6, 3.0)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((0.5,), "1 bandwidth shares for 2 devices"),
        ((0.5, 0.6), "more than the band"),
        ((0.5, 0.0), "must be positive"),
        ((0.5, math.nan), "must be positive"),
    ],
)
def test_shares_that_cannot_be(shares: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        link_rates(Link(5e6, shares), (_device(), _device()))


@pytest.mark.parametrize(
    ("bandwidth_hz", "snr_db"), [(0.0, 1.0), (-5.0, 1.0), (math.inf, 1.0), (1.0, math.nan)]
)
def test_rates_that_cannot_be(bandwidth_hz: float, snr_db: float) -> None:
    with pytest.raises(ConfigError, match="must be"):
        shannon_rate_bit_per_s(bandwidth_hz, snr_db)
