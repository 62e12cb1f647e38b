"""Drops: the share in sight, the shadowing, both ways' ratios, purity."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.channel.cell import UMA, UMI, Radio, distances_in_cell, drop_devices, path_loss_db
from cutlayer.errors import ConfigError

RADIO = Radio(
    bandwidth_hz=5e6,
    carrier_ghz=3.5,
    device_power_dbm=23.0,
    server_power_dbm=33.0,
    device_noise_figure_db=9.0,
    server_noise_figure_db=5.0,
)
MANY = 50_000
# standard errors; seeds are fixed
SIGMAS = 5.0


def test_in_sight_and_shadow_as_drawn() -> None:
    places = np.full(MANY, 100.0)
    drop = drop_devices(UMI, places, RADIO, seed=0)
    # 0.230985 by hand in test_cell_path_loss
    error = math.sqrt(0.231 * 0.769 / MANY)
    assert drop.in_sight.mean() == pytest.approx(0.230985, abs=SIGMAS * error)
    shadow = drop.path_loss_db - path_loss_db(UMI, places, drop.in_sight, 3.5)
    for sight, sigma in ((True, 4.0), (False, 7.82)):
        values = shadow[drop.in_sight == sight]
        # errors of a normal's mean and standard deviation
        assert values.mean() == pytest.approx(0.0, abs=SIGMAS * sigma / math.sqrt(len(values)))
        assert values.std() == pytest.approx(sigma, abs=SIGMAS * sigma / math.sqrt(2 * len(values)))


def test_both_ways_lose_alike() -> None:
    drop = drop_devices(UMA, np.array([50.0, 300.0]), RADIO, seed=1)
    # 10 dB more power, 4 dB more noise
    np.testing.assert_allclose(drop.downlink_snr_db - drop.uplink_snr_db, 6.0, rtol=0, atol=1e-12)
    # 23 - L + 174 - 66.9897 - 5
    np.testing.assert_allclose(drop.uplink_snr_db, 125.0103 - drop.path_loss_db, atol=5e-5)


@given(st.integers(1, 30), st.integers(0, 2**40))
def test_a_drop_is_pure_and_devices_do_not_know_each_other(devices: int, seed: int) -> None:
    places = distances_in_cell(devices + 4, 10.0, 400.0, seed)
    assert np.array_equal(places[:devices], distances_in_cell(devices, 10.0, 400.0, seed))
    more = drop_devices(UMI, places, RADIO, seed)
    fewer = drop_devices(UMI, places[:devices], RADIO, seed)
    assert np.array_equal(more.uplink_snr_db[:devices], fewer.uplink_snr_db)
    other = drop_devices(UMI, places, RADIO, seed + 1)
    assert not np.array_equal(more.uplink_snr_db, other.uplink_snr_db)


def test_places_are_even_over_the_ground() -> None:
    places = distances_in_cell(MANY, 10.0, 250.0, seed=2)
    assert places.min() >= 10 and places.max() <= 250
    # half the area lies within sqrt((10^2 + 250^2) / 2) = 176.92 m
    within = (places < math.sqrt((10**2 + 250**2) / 2)).mean()
    assert within == pytest.approx(0.5, abs=SIGMAS * 0.5 / math.sqrt(MANY))


@pytest.mark.parametrize(
    ("devices", "nearest_m", "farthest_m", "seed", "message"),
    [
        (0, 10.0, 100.0, 0, "at least one device"),
        (5, 100.0, 100.0, 0, "0 <= nearest < farthest"),
        (5, -1.0, 100.0, 0, "0 <= nearest < farthest"),
        (5, math.nan, 100.0, 0, "0 <= nearest < farthest"),
        (5, 10.0, math.inf, 0, "0 <= nearest < farthest"),
        (5, 10.0, 100.0, -3, "seed must be 0 or more, not -3"),
    ],
)
def test_cells_that_cannot_be(
    devices: int, nearest_m: float, farthest_m: float, seed: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        distances_in_cell(devices, nearest_m, farthest_m, seed)


def test_drops_that_cannot_be() -> None:
    places = np.array([50.0])
    with pytest.raises(ConfigError, match="no distances"):
        drop_devices(UMI, np.zeros(0), RADIO, 0)
    with pytest.raises(ConfigError, match="outside 10 to 5000 m"):
        drop_devices(UMI, np.array([1.0]), RADIO, 0)
    with pytest.raises(ConfigError, match="seed must be 0 or more"):
        drop_devices(UMI, places, RADIO, -1)
    for change, message in (
        ({"bandwidth_hz": 0.0}, "bandwidth must be positive"),
        ({"carrier_ghz": 0.1}, "outside 0.5 to 100 GHz"),
        ({"device_power_dbm": math.nan}, "transmit power must be finite"),
        ({"server_power_dbm": math.inf}, "transmit power must be finite"),
        ({"device_noise_figure_db": -1.0}, "noise figure"),
        ({"server_noise_figure_db": math.nan}, "noise figure"),
        ({"device_height_m": 50.0}, "outside 1.5 to 22.5 m"),
    ):
        with pytest.raises(ConfigError, match=message):
            drop_devices(UMI, places, replace(RADIO, **change), 0)
