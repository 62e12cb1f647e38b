"""A channel of Shannon rates: a mean signal-to-noise ratio a device, a rate law, and fading.

Knows no distance (see `drop`) and no measured trace. Devices hold shares of the band side by side
and do not disturb each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
from jaxtyping import Float, Float64

from cutlayer.channel.fading import Fading, NoFading
from cutlayer.channel.rates import Channel, LinkRates
from cutlayer.channel.seeds import Purpose, check_seed
from cutlayer.channel.shannon import ConstantSnr, RateLaw, check_bandwidth, check_snr
from cutlayer.channel.shares import check_shares
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
                f"{len(up)} uplink and {len(down)} downlink signal-to-noise ratios: give one each "
                "way for each device"
            )
        for ratio_db in (*up.tolist(), *down.tolist()):
            check_snr(ratio_db)
        check_seed(self.seed)

    def rates(
        self, round_number: int, start_s: float, shares: Sequence[float]
    ) -> tuple[LinkRates, ...]:
        """One fade a round, whenever it begins.

        The broadcast has the whole band and must reach every device, so the weakest downlink sets
        its rate. Source: SFT eqs. (19), (21), (23), with one ratio a device in (19).
        """
        devices = len(self.uplink_snr_db)
        check_shares(shares, devices)
        share = np.asarray(shares, dtype=np.float64)
        up_db, down_db = self.snr_db(round_number)
        up, down = self._both_ways(share, up_db, down_db)
        up_band, down_band = self._both_ways(np.ones(devices), up_db, down_db)
        broadcast = float(down_band.min())
        columns = (up.tolist(), down.tolist(), up_band.tolist(), down_band.tolist())
        return tuple(
            LinkRates(u, d, broadcast, u_band, d_band)
            for u, d, u_band, d_band in zip(*columns, strict=True)
        )

    def snr_db(
        self, round_number: int
    ) -> tuple[Float64[np.ndarray, " device"], Float64[np.ndarray, " device"]]:
        """Each device's ratio in a round [dB], uplink and downlink, over the whole band."""
        devices = len(self.uplink_snr_db)
        up = self.fading.gains(round_number, devices, self.seed, Purpose.UPLINK_FADING)
        down = (
            up
            if self.reciprocal
            else self.fading.gains(round_number, devices, self.seed, Purpose.DOWNLINK_FADING)
        )
        return self.uplink_snr_db + _db(up), self.downlink_snr_db + _db(down)

    def _both_ways(
        self,
        share: Float64[np.ndarray, " device"],
        up_db: Float64[np.ndarray, " device"],
        down_db: Float64[np.ndarray, " device"],
    ) -> tuple[Float64[np.ndarray, " device"], Float64[np.ndarray, " device"]]:
        return (
            self.uplink_law.rate_bit_per_s(share, self.bandwidth_hz, up_db),
            self.downlink_law.rate_bit_per_s(share, self.bandwidth_hz, down_db),
        )


def _db(gain: Float64[np.ndarray, " device"]) -> Float64[np.ndarray, " device"]:
    return np.asarray(10.0 * np.log10(gain))
