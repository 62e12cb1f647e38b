"""Which random stream a draw comes from: a seed and a purpose give one, whatever else was drawn.

Knows no channel. Purposes keep apart what shares a seed, such as a device's place and its fading.
"""

from enum import IntEnum

import numpy as np

from cutlayer.errors import ConfigError

# keeps these streams apart from those that other parts of a run make of the same seed
_CHANNEL = int.from_bytes(b"chan")


class Purpose(IntEnum):
    """What is drawn."""

    UPLINK_FADING = 1
    DOWNLINK_FADING = 2
    DISTANCE = 3
    SIGHT = 4
    SHADOWING = 5


def generator(seed: int, purpose: Purpose, index: int = 0) -> np.random.Generator:
    """The stream of (seed, purpose, index). Raises ConfigError for a negative seed."""
    check_seed(seed)
    return np.random.default_rng([seed, _CHANNEL, int(purpose), index])


def check_seed(seed: int) -> None:
    """Raise ConfigError for a negative seed."""
    if seed < 0:
        raise ConfigError(f"a seed must be 0 or more, not {seed}")
