"""How many bytes a setting of the codec sends over those of float32: the paper's beta.

Two ways to tell it without sending anything. Knows settings, and no link.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float64

from cutlayer.errors import ConfigError

_FLOAT32_BITS = 32
_FLOAT32_BYTES = 4


class CompressionRatio(ABC):
    """Bytes sent over bytes of float32, by keep ratio and bits (levels = 2^q - 1)."""

    @abstractmethod
    def at(
        self, keep_ratio: Float64[np.ndarray, "*point"], bits: Float64[np.ndarray, "*point"]
    ) -> Float64[np.ndarray, "*point"]:
        """The ratio at each point: positive and continuous in the keep ratio. It may fall where
        more is kept: with everything kept, no positions are sent."""


@final
@dataclass(frozen=True)
class EntropyRatio(CompressionRatio):
    """Plain bits for sign and level, and as few for positions as their entropy allows.

    `(rho (1 + q) + H2(rho)) / 32`, H2 the binary entropy; Golomb's gaps come within a few per cent.
    It rises with rho up to 1 / (1 + 2^-(1+q)).
    """

    def at(
        self, keep_ratio: Float64[np.ndarray, "*point"], bits: Float64[np.ndarray, "*point"]
    ) -> Float64[np.ndarray, "*point"]:
        """See `CompressionRatio.at`."""
        rho, q = keep_ratio, bits
        return np.asarray((rho * (1 + q) + _entropy(rho)) / _FLOAT32_BITS)


@final
@dataclass(frozen=True, eq=False)
class TabledRatio(CompressionRatio):
    """Known on a grid of keep ratios and bits; lines between them, one way and then the other."""

    keep_ratios: Float64[np.ndarray, " keep_ratio"]
    bits: Float64[np.ndarray, " bits"]
    ratios: Float64[np.ndarray, "keep_ratio bits"]

    def at(
        self, keep_ratio: Float64[np.ndarray, "*point"], bits: Float64[np.ndarray, "*point"]
    ) -> Float64[np.ndarray, "*point"]:
        """See `CompressionRatio.at`. Raises ConfigError for a point that is not in the table."""
        (least, most), (fewest, highest) = self.keep_ratios[[0, -1]], self.bits[[0, -1]]
        inside = (keep_ratio >= least) & (keep_ratio <= most) & (bits >= fewest) & (bits <= highest)
        if not inside.all():
            raise ConfigError(
                f"compression is known for keep ratios {least:g} to {most:g} and {fewest:g} to"
                f" {highest:g} bits; make the table larger"
            )
        columns = np.stack([np.interp(keep_ratio, self.keep_ratios, r) for r in self.ratios.T])
        place = np.interp(bits, self.bits, np.arange(len(self.bits)))
        low = np.minimum(place.astype(np.int64), max(len(self.bits) - 2, 0))
        high = np.minimum(low + 1, len(self.bits) - 1)
        below, above = (np.take_along_axis(columns, at[None], axis=0)[0] for at in (low, high))
        return np.asarray(below + (place - low) * (above - below))


def _entropy(part: Float64[np.ndarray, "*point"]) -> Float64[np.ndarray, "*point"]:
    """H2 [bit]; 0 at both ends."""
    other = 1.0 - part
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(p > 0, p * np.log2(p), 0.0) for p in (part, other)]
    return np.asarray(-terms[0] - terms[1])
