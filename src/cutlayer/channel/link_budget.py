"""From transmit power and path loss to a signal-to-noise ratio, over thermal noise alone.

Knows no scenario. Left out: interference from other cells, cable and body losses (take them off the
power).
"""

import math

import numpy as np
from jaxtyping import Float, Float64

from cutlayer.channel.shannon import check_bandwidth
from cutlayer.errors import ConfigError

# k T at 290 K is -173.98 dBm/Hz; link budgets round it
THERMAL_NOISE_DBM_PER_HZ = -174.0


def snr_db(
    tx_power_dbm: float,
    path_loss_db: Float[np.ndarray, " device"],
    bandwidth_hz: float,
    noise_figure_db: float,
) -> Float64[np.ndarray, " device"]:
    """Power received less the noise in the band [dB].

    `P - L - (-174 dBm/Hz + 10 log10 B + F)`; antenna gains count towards the power. Raises
    ConfigError for a band that is not positive or a number that is not finite.
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
