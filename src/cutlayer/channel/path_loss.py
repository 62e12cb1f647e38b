"""Path loss outdoors in a city, with and without line of sight: UMi-Street Canyon and UMa.

Source: 3GPP TR 38.901 V17.0.0 (2022-03), clauses 7.4.1 and 7.4.2. Knows no power and no noise.
Left out: indoor devices (clause 7.4.3), the other scenarios, UMa devices above 13 m (their
environment height is random), the optional formulas.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from cutlayer.errors import ConfigError

# as the notes of Table 7.4.1-1 have it
_LIGHT_M_PER_S = 3.0e8
_ENVIRONMENT_HEIGHT_M = 1.0
_NEAREST_M, _FARTHEST_M = 10.0, 5000.0
_LOWEST_GHZ, _HIGHEST_GHZ = 0.5, 100.0
_LOWEST_DEVICE_M = 1.5
_ALWAYS_IN_SIGHT_M = 18.0


@dataclass(frozen=True)
class Scenario:
    """The numbers of one scenario's rows in Tables 7.4.1-1 and 7.4.2-1.

    In sight: `near_db + near_slope log10 d_3D + 20 log10 f_c` up to the breakpoint; beyond it slope
    40 and less `bend log10(d_BP^2 + (h_BS - h_UT)^2)`. Out of sight: at least
    `hidden_db + hidden_slope log10 d_3D + hidden_carrier log10 f_c - hidden_height (h_UT - 1.5)`.
    `sight_m` is the length in the probability of a line of sight.
    """

    name: str
    base_height_m: float
    highest_device_m: float
    near_db: float
    near_slope: float
    bend: float
    hidden_db: float
    hidden_slope: float
    hidden_carrier: float
    hidden_height: float
    sight_m: float
    shadowing_los_db: float
    shadowing_nlos_db: float


UMI = Scenario(
    name="umi",
    base_height_m=10.0,
    highest_device_m=22.5,
    near_db=32.4,
    near_slope=21.0,
    bend=9.5,
    hidden_db=22.4,
    hidden_slope=35.3,
    hidden_carrier=21.3,
    hidden_height=0.3,
    sight_m=36.0,
    shadowing_los_db=4.0,
    shadowing_nlos_db=7.82,
)
UMA = Scenario(
    name="uma",
    base_height_m=25.0,
    highest_device_m=13.0,
    near_db=28.0,
    near_slope=22.0,
    bend=9.0,
    hidden_db=13.54,
    hidden_slope=39.08,
    hidden_carrier=20.0,
    hidden_height=0.6,
    sight_m=63.0,
    shadowing_los_db=4.0,
    shadowing_nlos_db=6.0,
)
SCENARIOS = {scenario.name: scenario for scenario in (UMI, UMA)}


def los_path_loss_db(
    scenario: Scenario,
    distance_m: Float[np.ndarray, " device"],
    carrier_ghz: float,
    device_height_m: float = 1.5,
) -> Float64[np.ndarray, " device"]:
    """Path loss with a line of sight [dB], shadowing not counted.

    `distance_m` is along the ground (d_2D), 10 m to 5 km; carriers from 0.5 to 100 GHz. Raises
    ConfigError outside the range that the table holds for. Source: Table 7.4.1-1, LOS rows.
    """
    _check(scenario, distance_m, carrier_ghz, device_height_m)
    rise_m = scenario.base_height_m - device_height_m
    breakpoint_m = breakpoint_distance_m(scenario, carrier_ghz, device_height_m)
    log_d3d = _log_distance_3d(scenario, distance_m, device_height_m)
    at_carrier = scenario.near_db + 20.0 * math.log10(carrier_ghz)
    near = at_carrier + scenario.near_slope * log_d3d
    bend = scenario.bend * math.log10(breakpoint_m**2 + rise_m**2)
    far = at_carrier + 40.0 * log_d3d - bend
    return np.where(distance_m <= breakpoint_m, near, far)


def nlos_path_loss_db(
    scenario: Scenario,
    distance_m: Float[np.ndarray, " device"],
    carrier_ghz: float,
    device_height_m: float = 1.5,
) -> Float64[np.ndarray, " device"]:
    """Path loss without a line of sight [dB], shadowing not counted: never less than with one.

    Arguments, range and errors as `los_path_loss_db`. Source: Table 7.4.1-1, NLOS rows.
    """
    in_sight = los_path_loss_db(scenario, distance_m, carrier_ghz, device_height_m)
    hidden = (
        scenario.hidden_db
        + scenario.hidden_slope * _log_distance_3d(scenario, distance_m, device_height_m)
        + scenario.hidden_carrier * math.log10(carrier_ghz)
        - scenario.hidden_height * (device_height_m - 1.5)
    )
    return np.asarray(np.maximum(in_sight, hidden))


def path_loss_db(
    scenario: Scenario,
    distance_m: Float[np.ndarray, " device"],
    in_sight: Bool[np.ndarray, " device"],
    carrier_ghz: float,
    device_height_m: float = 1.5,
) -> Float64[np.ndarray, " device"]:
    """Path loss [dB] of devices of which some are in sight. Range, errors: `los_path_loss_db`."""
    los = los_path_loss_db(scenario, distance_m, carrier_ghz, device_height_m)
    nlos = nlos_path_loss_db(scenario, distance_m, carrier_ghz, device_height_m)
    return np.where(in_sight, los, nlos)


def los_probability(
    scenario: Scenario, distance_m: Float[np.ndarray, " device"]
) -> Float64[np.ndarray, " device"]:
    """The probability of a line of sight to a device outdoors, by its distance along the ground.

    1 up to 18 m, then `18 / d + exp(-d / sight_m) (1 - 18 / d)`; UMa's factor for devices above
    13 m is 1 here. Raises ConfigError outside 10 m to 5 km. Source: Table 7.4.2-1.
    """
    _check_distances(distance_m)
    near = np.minimum(_ALWAYS_IN_SIGHT_M / distance_m, 1.0)
    return np.asarray(near + np.exp(-distance_m / scenario.sight_m) * (1.0 - near))


def shadowing_sigma_db(
    scenario: Scenario, in_sight: Bool[np.ndarray, " device"]
) -> Float64[np.ndarray, " device"]:
    """The standard deviation of the log-normal shadowing [dB]. Source: Table 7.4.1-1."""
    return np.where(in_sight, scenario.shadowing_los_db, scenario.shadowing_nlos_db)


def breakpoint_distance_m(
    scenario: Scenario, carrier_ghz: float, device_height_m: float = 1.5
) -> float:
    """d'_BP = 4 h'_BS h'_UT f_c / c with heights above the environment's 1 m, along the ground.

    Source: Table 7.4.1-1, note 1.
    """
    base = scenario.base_height_m - _ENVIRONMENT_HEIGHT_M
    device = device_height_m - _ENVIRONMENT_HEIGHT_M
    return 4.0 * base * device * carrier_ghz * 1e9 / _LIGHT_M_PER_S


def _log_distance_3d(
    scenario: Scenario, distance_m: Float[np.ndarray, " device"], device_height_m: float
) -> Float64[np.ndarray, " device"]:
    return np.asarray(np.log10(np.hypot(distance_m, scenario.base_height_m - device_height_m)))


def _check(
    scenario: Scenario,
    distance_m: Float[np.ndarray, " device"],
    carrier_ghz: float,
    device_height_m: float,
) -> None:
    _check_distances(distance_m)
    if not _LOWEST_GHZ <= carrier_ghz <= _HIGHEST_GHZ:
        raise ConfigError(
            f"a carrier of {carrier_ghz} GHz is outside {_LOWEST_GHZ:g} to {_HIGHEST_GHZ:g} GHz, "
            "where the path loss holds"
        )
    if not _LOWEST_DEVICE_M <= device_height_m <= scenario.highest_device_m:
        raise ConfigError(
            f"a device {device_height_m} m above the ground is outside {_LOWEST_DEVICE_M:g} to "
            f"{scenario.highest_device_m:g} m, where the path loss of {scenario.name} holds"
        )


def _check_distances(distance_m: Float[np.ndarray, " device"]) -> None:
    # a NaN is in no range
    outside = ~((distance_m >= _NEAREST_M) & (distance_m <= _FARTHEST_M))
    if outside.any():
        wrong = int(np.flatnonzero(outside)[0])
        raise ConfigError(
            f"device {wrong} is {distance_m[wrong]} m away, outside {_NEAREST_M:g} to "
            f"{_FARTHEST_M:g} m, where the path loss holds"
        )
