"""Small-scale fading: by how much each device's power is above or below its mean in a round.

Knows no distance and no rate. Block fading: a gain holds for a whole round and for the whole band.
Gains are a pure function of (seed, direction, round), so a resumed run sees those that it would
have seen, and device n's do not depend on how many devices there are.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Complex128, Float64

from cutlayer.channel.seeds import Purpose, generator
from cutlayer.errors import ConfigError

# below this, correlation is less than a rounding error of a double
_FORGOTTEN = 2.0**-60


class Fading(ABC):
    """Power gains of mean 1."""

    @abstractmethod
    def gains(
        self, round_number: int, devices: int, seed: int, purpose: Purpose
    ) -> Float64[np.ndarray, " device"]:
        """Each device's power gain (linear, mean 1) in round 1, 2, ...

        `purpose` tells one direction's stream from the other's. Raises ConfigError for a round
        before 1, no devices, or a negative seed.
        """


@final
@dataclass(frozen=True)
class NoFading(Fading):
    """Gains of 1."""

    def gains(
        self, round_number: int, devices: int, seed: int, purpose: Purpose
    ) -> Float64[np.ndarray, " device"]:
        """Ones."""
        _check(round_number, devices)
        return np.ones(devices)


@final
@dataclass(frozen=True)
class Rayleigh(Fading):
    """|h|^2 with h ~ CN(0, 1), so exponential of mean 1: no line of sight, redrawn each round."""

    def gains(
        self, round_number: int, devices: int, seed: int, purpose: Purpose
    ) -> Float64[np.ndarray, " device"]:
        """Independent from round to round."""
        _check(round_number, devices)
        return _power(_scatter(devices, seed, purpose, round_number), k=0.0)


@final
@dataclass(frozen=True)
class Rician(Fading):
    """A steady path beside the scattered ones, redrawn each round.

    |sqrt(K / (K + 1)) + sqrt(1 / (K + 1)) h|^2 with h ~ CN(0, 1); `k_db` is the ratio K of the
    steady path's power to that of all others. Variance of the gain: (2 K + 1) / (K + 1)^2.
    """

    k_db: float

    def __post_init__(self) -> None:
        _check_k(self.k_db)

    def gains(
        self, round_number: int, devices: int, seed: int, purpose: Purpose
    ) -> Float64[np.ndarray, " device"]:
        """Independent from round to round."""
        _check(round_number, devices)
        return _power(_scatter(devices, seed, purpose, round_number), _linear(self.k_db))


@final
@dataclass(frozen=True)
class GaussMarkov(Fading):
    """Fading that changes slowly: h_t = a h_{t-1} + sqrt(1 - a^2) w_t with w_t ~ CN(0, 1).

    `correlation` is a, from 0 (Rayleigh or Rician, redrawn each round) to below 1; a Doppler
    frequency f and rounds of T seconds give a = J0(2 pi f T) (Jakes). `k_db` adds a steady path as
    in `Rician`; None for none. h starts in its stationary state, so every round is CN(0, 1).

    A round costs about log2(42 / (1 - a)) draws a device, however late it is. h is Markov, so it
    need not be made step by step: given h at two ends, the middle is Gaussian,
    h_m = b / (1 + b^2) (h_l + h_r) + sqrt((1 - b^2) / (1 + b^2)) w_m with b = a^(m - l). Rounds so
    far apart that their correlation is under 2^-60 are drawn independently, and halving the way
    between them leads to any round. Each round has its own w, so nothing is remembered.
    """

    correlation: float
    k_db: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.correlation < 1:
            raise ConfigError(
                f"a fading correlation must be from 0 to below 1, not {self.correlation}"
            )
        if self.k_db is not None:
            _check_k(self.k_db)

    def gains(
        self, round_number: int, devices: int, seed: int, purpose: Purpose
    ) -> Float64[np.ndarray, " device"]:
        """The same for the same round, in whatever order rounds are asked for."""
        _check(round_number, devices)
        k = 0.0 if self.k_db is None else _linear(self.k_db)
        return _power(self._amplitude(round_number, devices, seed, purpose), k)

    def _amplitude(
        self, round_number: int, devices: int, seed: int, purpose: Purpose
    ) -> Complex128[np.ndarray, " device"]:
        span = _span(self.correlation)
        left = round_number - round_number % span
        at_left = _scatter(devices, seed, purpose, left)
        if left == round_number:
            return at_left
        at_right = _scatter(devices, seed, purpose, left + span)
        while True:
            span //= 2
            middle = left + span
            b = self.correlation**span
            w = _scatter(devices, seed, purpose, middle)
            # (1 - b) (1 + b): near a = 1 the difference of squares would lose its digits
            spread = math.sqrt((1 - b) * (1 + b) / (1 + b * b))
            at_middle = np.asarray(b / (1 + b * b) * (at_left + at_right) + spread * w)
            if middle == round_number:
                return at_middle
            if middle < round_number:
                left, at_left = middle, at_middle
            else:
                at_right = at_middle


def _span(correlation: float) -> int:
    """The least power of two after which nothing of an amplitude is left: a^span < 2^-60."""
    span = 1
    while correlation**span >= _FORGOTTEN:
        span *= 2
    return span


def _scatter(
    devices: int, seed: int, purpose: Purpose, index: int
) -> Complex128[np.ndarray, " device"]:
    """CN(0, 1): two normals of variance 1/2 a device, devices one after another."""
    parts = generator(seed, purpose, index).standard_normal((devices, 2))
    return np.asarray((parts[:, 0] + 1j * parts[:, 1]) / math.sqrt(2.0))


def _power(h: Complex128[np.ndarray, " device"], k: float) -> Float64[np.ndarray, " device"]:
    steady, scattered = math.sqrt(k / (k + 1)), math.sqrt(1 / (k + 1))
    return np.asarray((steady + scattered * h.real) ** 2 + (scattered * h.imag) ** 2)


def _linear(k_db: float) -> float:
    return float(10.0 ** (k_db / 10.0))


def _check_k(k_db: float) -> None:
    # beyond 100 dB nothing fades, and K would overflow somewhere
    if not -100 <= k_db <= 100:
        raise ConfigError(f"a Rician K must be from -100 to 100 dB, not {k_db}")


def _check(round_number: int, devices: int) -> None:
    if round_number < 1:
        raise ConfigError(f"rounds count from 1, not {round_number}")
    if devices < 1:
        raise ConfigError(f"fading needs at least one device, not {devices}")
