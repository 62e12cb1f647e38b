"""Accuracy as a function of what the codec keeps: where it was sampled, and what it is there.

Knows no fit: `cubic` and `monotone` do.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from cutlayer.errors import ConfigError


@dataclass(frozen=True)
class Box:
    """Keep ratios and bits from the least to the most, ends included.

    `bits` is q of levels = 2^q - 1, and need not be whole. Raises ConfigError unless
    0 < least <= most for both and no keep ratio is above 1.
    """

    keep_ratio: tuple[float, float]
    bits: tuple[float, float]

    def __post_init__(self) -> None:
        least, most = self.keep_ratio
        if not 0 < least <= most <= 1:
            raise ConfigError(f"keep ratios {least:g} to {most:g}: give 0 < least <= most <= 1")
        fewest, highest = self.bits
        if not 0 < fewest <= highest < np.inf:
            raise ConfigError(f"bits {fewest:g} to {highest:g}: give 0 < fewest <= most")

    def check(
        self, keep_ratio: Float64[np.ndarray, "*point"], bits: Float64[np.ndarray, "*point"]
    ) -> None:
        """Raise ConfigError for a point outside: nothing was measured there."""
        for name, values, (least, most) in (
            ("keep ratio", keep_ratio, self.keep_ratio),
            ("bits", bits, self.bits),
        ):
            # NaN is not inside
            wrong = values[~((values >= least) & (values <= most))]
            if wrong.size:
                raise ConfigError(
                    f"{name} {wrong.flat[0]:g} is outside {least:g} to {most:g}, where accuracy was"
                    " measured; choose one inside, or profile a larger grid"
                )

    def whole_bits(self) -> Float64[np.ndarray, " bits"]:
        """The whole numbers of bits inside; may be empty."""
        fewest, most = self.bits
        return np.arange(np.ceil(fewest), np.floor(most) + 1)


class AccuracySurface(ABC):
    """Accuracy [share of test samples] over a box of keep ratios and bits."""

    @property
    @abstractmethod
    def box(self) -> Box:
        """Where it was sampled."""

    @abstractmethod
    def at(
        self, keep_ratio: Float64[np.ndarray, "*point"], bits: Float64[np.ndarray, "*point"]
    ) -> Float64[np.ndarray, "*point"]:
        """The accuracy at each point. Raises ConfigError for a point outside the box."""
