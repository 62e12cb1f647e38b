"""Devices dropped into a city cell: who is in sight, how much is in the shadow, hence their ratios.

Knows no fading (see `fading`) and no rate. A drop is a pure function of its seed, and device n's
draws do not depend on how many devices there are.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from cutlayer.channel.link_budget import snr_db
from cutlayer.channel.path_loss import (
    Scenario,
    los_probability,
    path_loss_db,
    shadowing_sigma_db,
)
from cutlayer.channel.seeds import Purpose, generator
from cutlayer.errors import ConfigError


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
    """Draw a line of sight and shadowing for each device; ratios over the whole band [dB].

    Shadowing is log-normal and independent from device to device (clause 7.4.4 correlates those
    within tens of metres). Raises ConfigError for a distance, radio or seed outside the models.
    Source: 3GPP TR 38.901 V17.0.0, clauses 7.4.1 and 7.4.2.
    """
    devices = len(distances_m)
    if devices == 0:
        raise ConfigError("no distances: give one for each device")
    drawn = generator(seed, Purpose.SIGHT).random(devices)
    in_sight = drawn < los_probability(scenario, distances_m)
    shadow = generator(seed, Purpose.SHADOWING).standard_normal(devices)
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
    share = generator(seed, Purpose.DISTANCE).random(devices)
    # the area within d grows with d^2
    return np.asarray(np.sqrt(nearest_m**2 + share * (farthest_m**2 - nearest_m**2)))
