"""The Shannon channel: rates by hand, both directions, fading, and what it refuses."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.channel.fading import GaussMarkov, Rayleigh, SnrChannel
from cutlayer.channel.rates import ConstantPower, shannon_rate_bit_per_s
from cutlayer.errors import ConfigError

UP_DB, DOWN_DB = np.array([17.0, 10.0]), np.array([20.0, 3.0])
SHARES = (0.25, 0.75)
# a share times a band, or a band times a share: two roundings
ROUNDING = 1e-14


def test_each_device_has_its_share_and_the_weakest_sets_the_broadcast() -> None:
    first, second = SnrChannel(5e6, UP_DB, DOWN_DB).rates(1, 0.0, SHARES)
    expected = {
        first.uplink_bit_per_s: shannon_rate_bit_per_s(1.25e6, 17.0),
        second.downlink_bit_per_s: shannon_rate_bit_per_s(3.75e6, 3.0),
        first.uplink_alone_bit_per_s: shannon_rate_bit_per_s(5e6, 17.0),
        second.downlink_alone_bit_per_s: shannon_rate_bit_per_s(5e6, 3.0),
        first.broadcast_bit_per_s: shannon_rate_bit_per_s(5e6, 3.0),
    }
    for ours, by_hand in expected.items():
        assert ours == pytest.approx(by_hand, rel=ROUNDING)
    assert first.broadcast_bit_per_s == second.broadcast_bit_per_s


def test_a_law_for_each_direction() -> None:
    channel = SnrChannel(5e6, UP_DB, UP_DB, uplink_law=ConstantPower())
    first, second = channel.rates(1, 0.0, (0.25, 0.25))
    # 17 dB on a quarter of the bandwidth is 4 times 50.119: 1.25e6 log2(201.475) = 9.5681e6
    assert first.uplink_bit_per_s == pytest.approx(9.5681e6, rel=1e-4)
    assert first.downlink_bit_per_s == pytest.approx(
        shannon_rate_bit_per_s(1.25e6, 17.0), rel=ROUNDING
    )
    assert second.uplink_alone_bit_per_s == second.downlink_alone_bit_per_s


def test_fading_scales_the_ratio() -> None:
    faded = SnrChannel(5e6, UP_DB, DOWN_DB, fading=Rayleigh(), seed=3)
    up_db, down_db = faded.snr_db(4)
    # one gain moves both directions: 10 log10 of it
    np.testing.assert_allclose(up_db - UP_DB, down_db - DOWN_DB, rtol=0, atol=1e-12)
    first, _ = faded.rates(4, 0.0, SHARES)
    by_hand = shannon_rate_bit_per_s(1.25e6, float(up_db[0]))
    assert first.uplink_bit_per_s == pytest.approx(by_hand, rel=ROUNDING)
    assert first.broadcast_bit_per_s == pytest.approx(
        shannon_rate_bit_per_s(5e6, float(down_db.min())), rel=ROUNDING
    )


def test_the_mean_is_the_channel_that_does_not_fade() -> None:
    faded = SnrChannel(5e6, UP_DB, DOWN_DB, uplink_law=ConstantPower(), fading=Rayleigh())
    steady = SnrChannel(5e6, UP_DB, DOWN_DB, uplink_law=ConstantPower()).curves(1, 0.0)
    shares, mean = np.array(SHARES), faded.mean_curves()
    for ours, theirs in ((mean.uplink, steady.uplink), (mean.downlink, steady.downlink)):
        assert (ours.rate_bit_per_s(shares) == theirs.rate_bit_per_s(shares)).all()


def test_two_carriers_fade_apart() -> None:
    channel = SnrChannel(5e6, UP_DB, UP_DB, fading=Rayleigh(), reciprocal=False)
    up_db, down_db = channel.snr_db(1)
    assert (up_db != down_db).all()
    alike = SnrChannel(5e6, UP_DB, UP_DB, fading=Rayleigh())
    assert np.array_equal(*alike.snr_db(1)) and np.array_equal(alike.snr_db(1)[0], up_db)


@given(st.integers(1, 10**6), st.floats(0, 1e9), st.integers(0, 2**32))
def test_rates_are_pure(round_number: int, start_s: float, seed: int) -> None:
    def make() -> SnrChannel:
        return SnrChannel(5e6, UP_DB, DOWN_DB, fading=GaussMarkov(0.9), seed=seed)

    ours = make().rates(round_number, start_s, SHARES)
    assert ours == make().rates(round_number, 0.0, SHARES)
    assert ours != make().rates(round_number + 1, 0.0, SHARES)


def test_many_devices() -> None:
    count = 10_000
    ratios = np.linspace(-10, 40, count)
    rates = SnrChannel(5e6, ratios, ratios, fading=Rayleigh()).rates(1, 0.0, (1 / count,) * count)
    assert len(rates) == count
    band = [rate.downlink_alone_bit_per_s for rate in rates]
    assert {rate.broadcast_bit_per_s for rate in rates} == {min(band)}


@pytest.mark.parametrize("bandwidth_hz", [0.0, -1.0, math.nan, math.inf])
def test_bands_that_cannot_be(bandwidth_hz: float) -> None:
    with pytest.raises(ConfigError, match="bandwidth must be positive"):
        SnrChannel(bandwidth_hz, UP_DB, DOWN_DB)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 400.0])
def test_ratios_that_cannot_be(wrong: float) -> None:
    for up, down in ((np.array([1.0, wrong]), DOWN_DB), (UP_DB, np.array([wrong, 1.0]))):
        with pytest.raises(ConfigError, match="SNR must be from -300 to 300 dB"):
            SnrChannel(5e6, up, down)


def test_counts_shares_and_seeds_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="0 uplink and 0 downlink"):
        SnrChannel(5e6, np.zeros(0), np.zeros(0))
    with pytest.raises(ConfigError, match="seed must be 0 or more"):
        SnrChannel(5e6, UP_DB, DOWN_DB, seed=-1)
    with pytest.raises(ConfigError, match="3 bandwidth shares for 2 devices"):
        SnrChannel(5e6, UP_DB, DOWN_DB).rates(1, 0.0, (0.1, 0.1, 0.1))
    with pytest.raises(ConfigError, match="rounds count from 1"):
        SnrChannel(5e6, UP_DB, DOWN_DB).rates(0, 0.0, SHARES)


def test_ratios_of_two_counts_cannot_be() -> None:
    # the shape check of the tests may see it first: both name the array
    with pytest.raises(Exception, match=r"downlink"):
        SnrChannel(5e6, UP_DB, np.zeros(3))
