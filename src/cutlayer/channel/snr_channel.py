"""A channel of Shannon rates: a mean signal-to-noise ratio a device, a rate law, and fading.

Knows no distance (see `drop`) and no measured trace. Devices hold shares of the band side by side
and do not disturb each other.
"""

from dataclasses import dataclass, field
from typing import final

import numpy as np
from jaxtyping import Float, Float64

from cutlayer.channel.curves import Curves, ShannonRates
from cutlayer.channel.fading import Fading, NoFading
from cutlayer.channel.rates import Channel
from cutlayer.channel.seeds import Purpose, check_seed
from cutlayer.channel.shannon import ConstantSnr, RateLaw, check_bandwidth, check_snr
from cutlayer.errors import ConfigError


@final
@dataclass(frozen=True, eq=False)
class SnrChannel(Channel):
    """Rates from mean ratios over the whole band [dB], faded anew (or not) each round.

    `uplink_law` is `ConstantPower` where each device sends with its full power. The downlink's is
    `ConstantSnr` as a rule: the server's power is spread over the whole band, so a device's part of
    it goes with its share; `ConstantPower` there would give every device all of it at once.

    `reciprocal`: both directions fade alike, as on one carrier frequency in turn (time division,
    what bands at 3.5 GHz and above use); False for two carriers (frequency division), where they
    fade independently. Raises ConfigError for a band, ratio, count or seed that cannot be.
    """

    bandwidth_hz: float
    uplink_snr_db: Float[np.ndarray, " device"]
    downlink_snr_db: Float[np.ndarray, " device"]
    uplink_law: RateLaw = field(default_factory=ConstantSnr)
    downlink_law: RateLaw = field(default_factory=ConstantSnr)
    fading: Fading = field(default_factory=NoFading)
    reciprocal: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_bandwidth(self.bandwidth_hz)
        up, down = self.uplink_snr_db, self.downlink_snr_db
        if len(up) == 0 or len(up) != len(down):
            raise ConfigError(
                f"{len(up)} uplink and {len(down)} downlink SNR values: give one each "
                "way for each device"
            )
        for ratio_db in (*up.tolist(), *down.tolist()):
            check_snr(ratio_db)
        check_seed(self.seed)

    def curves(self, round_number: int, start_s: float) -> Curves:
        """One fade a round, whenever it begins."""
        return self._curves(*self.snr_db(round_number))

    def mean_curves(self) -> Curves:
        """Those of the mean ratios, as without fading."""
        return self._curves(self.uplink_snr_db, self.downlink_snr_db)

    @property
    def devices(self) -> int:
        """How many devices it serves."""
        return len(self.uplink_snr_db)

    def snr_db(
        self, round_number: int
    ) -> tuple[Float64[np.ndarray, " device"], Float64[np.ndarray, " device"]]:
        """Each device's ratio in a round [dB], uplink and downlink, over the whole band."""
        up = self.fading.gains(round_number, self.devices, self.seed, Purpose.UPLINK_FADING)
        down = (
            up
            if self.reciprocal
            else self.fading.gains(round_number, self.devices, self.seed, Purpose.DOWNLINK_FADING)
        )
        return self.uplink_snr_db + _db(up), self.downlink_snr_db + _db(down)

    def _curves(
        self, up_db: Float[np.ndarray, " device"], down_db: Float[np.ndarray, " device"]
    ) -> Curves:
        return Curves(
            ShannonRates(self.uplink_law, self.bandwidth_hz, up_db),
            ShannonRates(self.downlink_law, self.bandwidth_hz, down_db),
        )


def _db(gain: Float64[np.ndarray, " device"]) -> Float64[np.ndarray, " device"]:
    return np.asarray(10.0 * np.log10(gain))
