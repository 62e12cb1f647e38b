"""The Shannon rate of a share of a band at a constant signal-to-noise ratio.

Knows nothing of fading: the ratio is a number that the caller gives, the same for any share (a
fixed power spectral density).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cutlayer.errors import ConfigError
from cutlayer.spec import Device, Link
from cutlayer.units import linear_from_db


@dataclass(frozen=True)
class LinkRates:
    """What one device sees in a round, in bit/s; the broadcast is the same for all devices."""

    uplink_bit_per_s: float
    downlink_bit_per_s: float
    broadcast_bit_per_s: float


def shannon_rate_bit_per_s(bandwidth_hz: float, snr_db: float) -> float:
    """`b log2(1 + SNR)` [bit/s].

    Raises ConfigError for a bandwidth that is not positive or a ratio that is not finite.
    Source: SFT, text before eq. (21).
    """
    if not (bandwidth_hz > 0 and math.isfinite(bandwidth_hz)):
        raise ConfigError(f"a bandwidth must be positive and finite, not {bandwidth_hz} Hz")
    if not math.isfinite(snr_db):
        raise ConfigError(f"a signal-to-noise ratio must be finite, not {snr_db} dB")
    return bandwidth_hz * math.log2(1.0 + linear_from_db(snr_db))


def link_rates(link: Link, devices: Sequence[Device]) -> tuple[LinkRates, ...]:
    """Each device's rates: its share of the band both ways, the whole band for the broadcast.

    The broadcast must reach every device, so the weakest downlink sets its rate. Raises
    ConfigError when shares and devices do not match or the shares exceed the band.
    Source: SFT eqs. (19), (21), (23), with one ratio per device in (19).
    """
    check_shares(link.shares, len(devices))
    weakest_db = min(device.downlink_snr_db for device in devices)
    broadcast = shannon_rate_bit_per_s(link.bandwidth_hz, weakest_db)
    return tuple(
        LinkRates(
            uplink_bit_per_s=shannon_rate_bit_per_s(
                share * link.bandwidth_hz, device.uplink_snr_db
            ),
            downlink_bit_per_s=shannon_rate_bit_per_s(
                share * link.bandwidth_hz, device.downlink_snr_db
            ),
            broadcast_bit_per_s=broadcast,
        )
        for share, device in zip(link.shares, devices, strict=True)
    )


def check_shares(shares: Sequence[float], devices: int) -> None:
    """Raise ConfigError unless there is one positive share a device and they fit the band."""
    if len(shares) != devices:
        raise ConfigError(f"{len(shares)} bandwidth shares for {devices} devices: give one each")
    bad = [share for share in shares if not (share > 0 and math.isfinite(share))]
    if bad:
        raise ConfigError(f"a bandwidth share must be positive and finite, not {bad[0]}")
    # one part in 10^9 forgives shares such as ten times 0.1
    if sum(shares) > 1 + 1e-9:
        raise ConfigError(f"bandwidth shares sum to {sum(shares):g}, more than the band (1)")
