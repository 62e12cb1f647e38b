"""A city cell: devices dropped into it, their path loss and link budget, hence their SNR.

Path loss outdoors in a city, with and without line of sight: UMi-Street Canyon and UMa. Source:
3GPP TR 38.901 V17.0.0 (2022-03), clauses 7.4.1, 7.4.2 and 7.4.4. Knows no fading and no rate. Left
out: indoor devices (clause 7.4.3), the other scenarios, UMa devices above 13 m (their environment
height is random), the optional formulas; interference from other cells, cable and body losses (take
them off the power).
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from cutlayer.channel.fading import RandomStream, channel_generator
from cutlayer.channel.rates import check_bandwidth
from cutlayer.errors import ConfigError

# k T at 290 K is -173.98 dBm/Hz; link budgets round it
THERMAL_NOISE_DBM_PER_HZ = -174.0
# as the notes of Table 7.4.1-1 have it
_LIGHT_M_PER_S = 3.0e8
_ENVIRONMENT_HEIGHT_M = 1.0
_NEAREST_M, _FARTHEST_M = 10.0, 5000.0
_LOWEST_GHZ, _HIGHEST_GHZ = 0.5, 100.0
_LOWEST_DEVICE_M = 1.5
_ALWAYS_IN_SIGHT_M = 18.0


def snr_db(
    tx_power_dbm: float,
    path_loss_db: Float[np.ndarray, " device"],
    bandwidth_hz: float,
    noise_figure_db: float,
) -> Float64[np.ndarray, " device"]:
    """Power received less the thermal noise in the bandwidth [dB].

    `P - L - (-174 dBm/Hz + 10 log10 B + F)`; antenna gains count towards the power. Raises
    ConfigError for a bandwidth that is not positive or a number that is not finite.
    """
    check_bandwidth(bandwidth_hz)
    if not math.isfinite(tx_power_dbm):
        raise ConfigError(f"a transmit power must be finite, not {tx_power_dbm} dBm")
    if not (noise_figure_db >= 0 and math.isfinite(noise_figure_db)):
        raise ConfigError(
            f"a noise figure must be finite and at least 0, not {noise_figure_db} dB: a receiver "
            "adds noise"
        )
    if not np.isfinite(path_loss_db).all():
        raise ConfigError("a path loss must be finite")
    noise_dbm = THERMAL_NOISE_DBM_PER_HZ + 10.0 * math.log10(bandwidth_hz) + noise_figure_db
    return np.asarray(tx_power_dbm - path_loss_db - noise_dbm, dtype=np.float64)


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


@dataclass(frozen=True)
class Radio:
    """What both ends of every link are made of; powers with antenna gains."""

    bandwidth_hz: float
    carrier_ghz: float
    device_power_dbm: float
    server_power_dbm: float
    device_noise_figure_db: float
    server_noise_figure_db: float
    device_height_m: float = 1.5


@dataclass(frozen=True, eq=False)
class Drop:
    """Each device's place in the cell: `path_loss_db` holds the shadowing too, alike both ways."""

    distance_m: Float[np.ndarray, " device"]
    in_sight: Bool[np.ndarray, " device"]
    path_loss_db: Float64[np.ndarray, " device"]
    uplink_snr_db: Float64[np.ndarray, " device"]
    downlink_snr_db: Float64[np.ndarray, " device"]


def drop_devices(
    scenario: Scenario,
    distances_m: Float[np.ndarray, " device"],
    radio: Radio,
    seed: int,
) -> Drop:
    """Draw a line of sight and shadowing for each device; SNR over the whole bandwidth [dB].

    A pure function of the seed; device n's draws do not depend on how many devices there are.
    Shadowing is log-normal and independent from device to device (clause 7.4.4 correlates those
    within tens of metres). Raises ConfigError for a distance, radio or seed outside the models.
    """
    devices = len(distances_m)
    if devices == 0:
        raise ConfigError("no distances: give one for each device")
    drawn = channel_generator(seed, RandomStream.SIGHT).random(devices)
    in_sight = drawn < los_probability(scenario, distances_m)
    shadow = channel_generator(seed, RandomStream.SHADOWING).standard_normal(devices)
    loss = path_loss_db(scenario, distances_m, in_sight, radio.carrier_ghz, radio.device_height_m)
    loss = loss + shadowing_sigma_db(scenario, in_sight) * shadow
    up, down = (
        snr_db(power_dbm, loss, radio.bandwidth_hz, noise_figure_db)
        for power_dbm, noise_figure_db in (
            (radio.device_power_dbm, radio.server_noise_figure_db),
            (radio.server_power_dbm, radio.device_noise_figure_db),
        )
    )
    return Drop(distances_m, in_sight, loss, up, down)


def distances_in_cell(
    devices: int, nearest_m: float, farthest_m: float, seed: int
) -> Float64[np.ndarray, " device"]:
    """Distances [m] of devices spread evenly over the ground between two circles.

    Raises ConfigError unless 0 <= nearest < farthest and there is a device.
    """
    if devices < 1:
        raise ConfigError(f"a cell needs at least one device, not {devices}")
    if not (0 <= nearest_m < farthest_m and math.isfinite(farthest_m)):
        raise ConfigError(
            f"distances from {nearest_m} to {farthest_m} m: give 0 <= nearest < farthest"
        )
    share = channel_generator(seed, RandomStream.DISTANCE).random(devices)
    # the area within d grows with d^2
    return np.asarray(np.sqrt(nearest_m**2 + share * (farthest_m**2 - nearest_m**2)))
