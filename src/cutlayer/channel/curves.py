"""A device's rate as a function of its share of the band: what an allocation is decided on.

Knows no clock, no model and no device by name.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float, Float64

from cutlayer.channel.shannon import RateLaw, check_bandwidth


class RateCurve(ABC):
    """Each device's rate in one direction: 0 without a share, increasing and concave in it."""

    @abstractmethod
    def rate_bit_per_s(
        self, share: Float64[np.ndarray, " device"]
    ) -> Float64[np.ndarray, " device"]:
        """Each device's rate [bit/s] on its share of the band; shares must be positive."""

    @abstractmethod
    def slope_bit_per_s(
        self, share: Float64[np.ndarray, " device"]
    ) -> Float64[np.ndarray, " device"]:
        """The rate's derivative by the share [bit/s for the whole band]."""


@final
@dataclass(frozen=True, eq=False)
class ProportionalRates(RateCurve):
    """A share of the band carries that share of the whole band's rate.

    Measured rates, and Shannon's with a constant ratio.
    """

    band_bit_per_s: Float[np.ndarray, " device"]

    def rate_bit_per_s(
        self, share: Float64[np.ndarray, " device"]
    ) -> Float64[np.ndarray, " device"]:
        """Linear in the share."""
        return np.asarray(share * self.band_bit_per_s, dtype=np.float64)

    def slope_bit_per_s(
        self, share: Float64[np.ndarray, " device"]
    ) -> Float64[np.ndarray, " device"]:
        """The whole band's rate, whatever the share."""
        return np.array(np.broadcast_to(self.band_bit_per_s, share.shape), dtype=np.float64)


@final
@dataclass(frozen=True, eq=False)
class ShannonRates(RateCurve):
    """Shannon's rate by a law. `snr_db`: the ratio on the whole band of `bandwidth_hz`."""

    law: RateLaw
    bandwidth_hz: float
    snr_db: Float[np.ndarray, " device"]

    def __post_init__(self) -> None:
        check_bandwidth(self.bandwidth_hz)

    def rate_bit_per_s(
        self, share: Float64[np.ndarray, " device"]
    ) -> Float64[np.ndarray, " device"]:
        """As the law says."""
        return self.law.rate_bit_per_s(share, self.bandwidth_hz, self.snr_db)

    def slope_bit_per_s(
        self, share: Float64[np.ndarray, " device"]
    ) -> Float64[np.ndarray, " device"]:
        """As the law says."""
        return self.law.slope_bit_per_s(share, self.bandwidth_hz, self.snr_db)


@final
@dataclass(frozen=True)
class Scaled(RateCurve):
    """Another curve's rates, so many times: a wider band at the same ratios."""

    curve: RateCurve
    factor: float

    def rate_bit_per_s(
        self, share: Float64[np.ndarray, " device"]
    ) -> Float64[np.ndarray, " device"]:
        """The other's, times the factor."""
        return np.asarray(self.factor * self.curve.rate_bit_per_s(share))

    def slope_bit_per_s(
        self, share: Float64[np.ndarray, " device"]
    ) -> Float64[np.ndarray, " device"]:
        """The other's, times the factor."""
        return np.asarray(self.factor * self.curve.slope_bit_per_s(share))


@dataclass(frozen=True)
class Curves:
    """Both directions of a round."""

    uplink: RateCurve
    downlink: RateCurve

    def times(self, factor: float) -> "Curves":
        """With rates so many times as high."""
        return Curves(Scaled(self.uplink, factor), Scaled(self.downlink, factor))
