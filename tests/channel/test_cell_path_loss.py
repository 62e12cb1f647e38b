"""TR 38.901 path loss against values worked by hand, and its laws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.channel.cell import (
    SCENARIOS,
    UMA,
    UMI,
    Scenario,
    breakpoint_distance_m,
    los_path_loss_db,
    los_probability,
    nlos_path_loss_db,
    path_loss_db,
    shadowing_sigma_db,
)
from cutlayer.errors import ConfigError

BOTH = tuple(SCENARIOS.values())
distances = st.floats(10.0, 5000.0)
carriers = st.floats(0.5, 100.0)
heights = st.floats(1.5, 13.0)
# hand values are given to four decimals
LAST = 5e-5


def at(distance_m: float) -> np.ndarray:
    return np.array([distance_m])


def test_breakpoints_by_hand() -> None:
    # 4 (10 - 1) (1.5 - 1) 3.5e9 / 3e8 = 210; 4 (25 - 1) (1.5 - 1) 3.5e9 / 3e8 = 560
    assert breakpoint_distance_m(UMI, 3.5) == pytest.approx(210.0)
    assert breakpoint_distance_m(UMA, 3.5) == pytest.approx(560.0)
    # 13 m: 4 * 24 * 12 * 2e9 / 3e8 = 7680
    assert breakpoint_distance_m(UMA, 2.0, 13.0) == pytest.approx(7680.0)


@pytest.mark.parametrize(
    ("scenario", "distance_m", "by_hand"),
    [
        # d_3D = sqrt(100^2 + 8.5^2) = 100.3606: 32.4 + 21 * 2.001563 + 20 * 0.544068
        (UMI, 100.0, 85.3142),
        # d_3D = 500.0722, d_BP^2 + 8.5^2 = 44172.25:
        # 32.4 + 40 * 2.699033 + 10.88136 - 9.5 * 4.645149
        (UMI, 500.0, 107.11375),
        # d_3D = sqrt(100^2 + 23.5^2) = 102.7241: 28 + 22 * 2.011672 + 10.88136
        (UMA, 100.0, 83.1382),
        # d_3D = 1000.2761, 560^2 + 23.5^2 = 314152.25:
        # 28 + 40 * 3.000120 + 10.88136 - 9 * 5.497140
        (UMA, 1000.0, 109.4119),
    ],
)
def test_in_sight_by_hand(scenario: Scenario, distance_m: float, by_hand: float) -> None:
    assert los_path_loss_db(scenario, at(distance_m), 3.5)[0] == pytest.approx(by_hand, abs=LAST)


@pytest.mark.parametrize(
    ("scenario", "height_m", "by_hand"),
    [
        # 22.4 + 35.3 * 2.001563 + 21.3 * 0.544068
        (UMI, 1.5, 104.6438),
        # d_3D = sqrt(100^2 + 1.5^2) = 100.0112: 22.4 + 35.3 * 2.000049 + 11.58865 - 0.3 * 10
        (UMI, 11.5, 101.5904),
        # 13.54 + 39.08 * 2.011672 + 10.88136
        (UMA, 1.5, 103.0375),
        # d_3D = sqrt(100^2 + 13.5^2) = 100.9071: 13.54 + 39.08 * 2.003922 + 10.88136 - 0.6 * 10
        (UMA, 11.5, 96.7346),
    ],
)
def test_out_of_sight_by_hand(scenario: Scenario, height_m: float, by_hand: float) -> None:
    ours = nlos_path_loss_db(scenario, at(100.0), 3.5, height_m)[0]
    assert ours == pytest.approx(by_hand, abs=LAST)


def test_sight_by_hand() -> None:
    # 0.18 + exp(-100 / 36) 0.82 = 0.18 + 0.062177 * 0.82; exp(-100 / 63) = 0.204477
    assert los_probability(UMI, at(100.0))[0] == pytest.approx(0.230985, abs=1e-6)
    assert los_probability(UMA, at(100.0))[0] == pytest.approx(0.347671, abs=1e-6)
    for scenario in BOTH:
        assert los_probability(scenario, np.array([10.0, 18.0])).tolist() == [1.0, 1.0]


def test_shadowing_is_the_tables() -> None:
    sight = np.array([True, False])
    assert shadowing_sigma_db(UMI, sight).tolist() == [4.0, 7.82]
    assert shadowing_sigma_db(UMA, sight).tolist() == [4.0, 6.0]


def test_devices_in_sight_and_not() -> None:
    places = np.array([100.0, 100.0])
    mixed = path_loss_db(UMI, places, np.array([True, False]), 3.5)
    assert mixed == pytest.approx([85.3142, 104.6438], abs=LAST)


@pytest.mark.parametrize("scenario", BOTH)
@given(st.floats(0.5, 7.0), st.floats(1.5, 3.0))
def test_no_step_at_the_breakpoint(scenario: Scenario, carrier_ghz: float, height_m: float) -> None:
    """40 log d_3D - bend log d_3D^2 = near_slope log d_3D there.

    Of these carriers and heights it is from 30 m (UMi) to 4480 m (UMa).
    """
    there = breakpoint_distance_m(scenario, carrier_ghz, height_m)
    around = np.array([there, there * (1 + 1e-9)])
    below, above = los_path_loss_db(scenario, around, carrier_ghz, height_m)
    # slope 40 dB a decade over 1e-9 is 2e-8 dB
    assert above == pytest.approx(below, abs=1e-7)


@pytest.mark.parametrize("scenario", BOTH)
@given(distances, distances, carriers, heights)
def test_further_is_weaker_and_hidden_is_weaker(
    scenario: Scenario, one_m: float, other_m: float, carrier_ghz: float, height_m: float
) -> None:
    places = np.array(sorted((one_m, other_m)))
    los = los_path_loss_db(scenario, places, carrier_ghz, height_m)
    nlos = nlos_path_loss_db(scenario, places, carrier_ghz, height_m)
    # rounding of terms of some 100 dB
    assert los[0] <= los[1] + 1e-10 and nlos[0] <= nlos[1] + 1e-10
    assert (nlos >= los).all()
    sight = los_probability(scenario, places)
    assert 1 >= sight[0] >= sight[1] - 1e-12 and sight[1] > 0


@pytest.mark.parametrize("scenario", BOTH)
@given(distances, carriers)
def test_never_stronger_than_free_space(
    scenario: Scenario, distance_m: float, carrier_ghz: float
) -> None:
    """Friis: 32.45 + 20 log d_3D[m] + 20 log f[GHz] = 20 log(4 pi d f / c); UMa is a waveguide.

    28 + 22 log d - 32.45 - 20 log d = 2 log d - 4.45: at 28.7 m and below, under free space by at
    most 4.45 - 2 log 25 = 1.66 dB (d_3D is at least 23.5 m).
    """
    rise_m = scenario.base_height_m - 1.5
    wave = 4 * math.pi * math.hypot(distance_m, rise_m) * carrier_ghz * 1e9 / 3e8
    free = 20 * math.log10(wave)
    assert los_path_loss_db(scenario, at(distance_m), carrier_ghz)[0] >= free - 1.7


@pytest.mark.parametrize("function", [los_path_loss_db, nlos_path_loss_db])
@pytest.mark.parametrize(
    ("distance_m", "carrier_ghz", "height_m", "message"),
    [
        (9.9, 3.5, 1.5, r"device 1 is 9\.9 m away, outside 10 to 5000 m"),
        (5001.0, 3.5, 1.5, "outside 10 to 5000 m"),
        (math.nan, 3.5, 1.5, "outside 10 to 5000 m"),
        (-50.0, 3.5, 1.5, "outside 10 to 5000 m"),
        (50.0, 0.4, 1.5, r"outside 0\.5 to 100 GHz"),
        (50.0, 101.0, 1.5, r"outside 0\.5 to 100 GHz"),
        (50.0, math.nan, 1.5, r"outside 0\.5 to 100 GHz"),
        (50.0, 3.5, 1.4, r"outside 1\.5 to 22\.5 m"),
        (50.0, 3.5, 22.6, r"the path loss of umi holds"),
        (50.0, 3.5, math.nan, r"outside 1\.5 to 22\.5 m"),
    ],
)
def test_outside_the_table(
    function: object, distance_m: float, carrier_ghz: float, height_m: float, message: str
) -> None:
    assert callable(function)
    with pytest.raises(ConfigError, match=message):
        function(UMI, np.array([50.0, distance_m]), carrier_ghz, height_m)


def test_uma_stops_where_the_environments_height_is_random() -> None:
    with pytest.raises(ConfigError, match=r"outside 1\.5 to 13 m"):
        los_path_loss_db(UMA, at(50.0), 3.5, 13.1)
    with pytest.raises(ConfigError, match="outside 10 to 5000 m"):
        los_probability(UMA, at(5.0))
