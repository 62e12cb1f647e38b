"""How large a quantiser's step is: fixed, or whatever meets a goal of size or of fidelity.

A step is `ratio` times the scale of the values at hand. A rule that has a goal measures what a
packet came to and moves the ratio for the next one; the first packet of a stream, and one after a
change of basis, is coded several times until it is met. Knows neither values nor symbols.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from cutlayer.errors import ConfigError

# how closely the first packet must meet the goal, and how many attempts it gets
CLOSE_ENOUGH = 0.03
ATTEMPTS = 10
SEARCH_GAIN = 0.7
# a later packet moves the log of the ratio by this part of what it missed by: batches differ
GAIN = 0.35
LARGEST_MOVE = math.log(4.0)


@dataclass(frozen=True)
class Outcome:
    """What a packet came to: its size [bit per value], and how it would decode.

    `cosine()` is the cosine between the values and what they decode to.
    """

    bits: float
    cosine: Callable[[], float]


class StepRule(ABC):
    """Where the ratio starts, and by how much an outcome misses the goal."""

    @property
    @abstractmethod
    def start(self) -> float:
        """The ratio of the first attempt."""

    @abstractmethod
    def excess(self, outcome: Outcome) -> float:
        """ln of how far beyond its goal an outcome is: above zero the step may grow."""


@final
@dataclass(frozen=True)
class RelativeStep(StepRule):
    """The same ratio always. Raises ConfigError: not above zero."""

    ratio: float

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio < math.inf:
            raise ConfigError(f"step {self.ratio}: give a number above 0, such as 1.0")

    @property
    def start(self) -> float:
        return self.ratio

    def excess(self, outcome: Outcome) -> float:
        return 0.0


FIXED = RelativeStep(1.0)


@final
@dataclass(frozen=True)
class TargetBits(StepRule):
    """The step at which packets take `bits` per value, what is shipped once not counted.

    Raises ConfigError: not within 0.001..16.
    """

    bits: float

    def __post_init__(self) -> None:
        if not 0.001 <= self.bits <= 16.0:
            raise ConfigError(f"target_bits {self.bits}: give bits per value from 0.001 to 16")

    @property
    def start(self) -> float:
        # a Laplace source at high rate: bits fall by one for each doubling
        return min(math.pow(2.0, 2.0 - self.bits), 4.0)

    def excess(self, outcome: Outcome) -> float:
        return math.log(max(outcome.bits, 1e-6) / self.bits)


@final
@dataclass(frozen=True)
class TargetCosine(StepRule):
    """The step at which the cosine between sent and decoded values is `cosine`.

    On the downlink the values are the activation's gradient, so this is the gradient's fidelity.
    Raises ConfigError: not within 0.1..0.9999.
    """

    cosine: float

    def __post_init__(self) -> None:
        if not 0.1 <= self.cosine <= 0.9999:
            raise ConfigError(f"target_cosine {self.cosine}: give a cosine from 0.1 to 0.9999")

    @property
    def start(self) -> float:
        return 1.0

    def excess(self, outcome: Outcome) -> float:
        missing = max(1.0 - outcome.cosine(), 1e-9)
        return 0.5 * math.log((1.0 - self.cosine) / missing)


def moved(ratio: float, excess: float, gain: float) -> float:
    """The ratio after a packet that missed by `excess`, within what a float32 step can be."""
    move = max(-LARGEST_MOVE, min(LARGEST_MOVE, gain * excess))
    return min(max(ratio * math.exp(move), 1e-6), 1e6)
