"""Accuracy by keep ratio and bits as the paper's text tells it of Fig. 7; nothing is measured here.

The paper prints no coefficient of its fit (35).
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float64

from cutlayer.planner.accuracy import AccuracySurface, Box

UNCOMPRESSED = 0.88
# "to limit the accuracy loss within 2 %"
LEAST_ACCURACY = 0.86
_BOX = Box((0.1, 0.5), (2.0, 8.0))


@final
@dataclass(frozen=True)
class ToldSurface(AccuracySurface):
    """`0.88 - 0.277 e^(-rho / 0.0654) - 0.384 4^-q`: made to fit three sentences.

    88 % at best; 2 points lost at 80 % sparsity and 3 bits (1.9 here); a sharp drop at 90 % (6
    points). It rises with both.
    """

    @property
    def box(self) -> Box:
        """Sparsity of 50 to 90 %, 2 to 8 bits."""
        return _BOX

    def at(
        self, keep_ratio: Float64[np.ndarray, "*point"], bits: Float64[np.ndarray, "*point"]
    ) -> Float64[np.ndarray, "*point"]:
        """See `AccuracySurface.at`."""
        _BOX.check(keep_ratio, bits)
        lost = 0.277 * np.exp(-keep_ratio / 0.0654) + 0.384 * 4.0**-bits
        return np.asarray(UNCOMPRESSED - lost)
