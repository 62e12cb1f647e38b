"""Shares of the band: one positive number a device, at most the band together."""

import math
from collections.abc import Sequence

from cutlayer.errors import ConfigError

# one part in 10^9 forgives shares such as ten times 0.1
_ROUNDING = 1e-9


def check_shares(shares: Sequence[float], devices: int) -> None:
    """Raise ConfigError unless there is one positive share a device and they fit the band."""
    if len(shares) != devices:
        raise ConfigError(f"{len(shares)} bandwidth shares for {devices} devices: give one each")
    for share in shares:
        if not (share > 0 and math.isfinite(share)):
            raise ConfigError(f"a bandwidth share must be positive and finite, not {share}")
    total = math.fsum(shares)
    if total > 1 + _ROUNDING:
        raise ConfigError(f"bandwidth shares sum to {total:g}, more than the band (1)")
