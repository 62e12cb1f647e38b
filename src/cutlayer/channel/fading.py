"""Small-scale fading, and the channel of a mean SNR a device that it acts on.

Block fading: a gain holds for a whole round and for the whole bandwidth. Gains are a pure function
of (seed, direction, round), so a resumed run sees those that it would have seen, and device n's do
not depend on how many devices there are. Knows no distance and no measured trace.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import IntEnum
from typing import final

import numpy as np
from jaxtyping import Complex128, Float, Float64

from cutlayer.channel.rates import (
    Channel,
    ConstantSnr,
    RateCurves,
    RateLaw,
    ShannonRates,
    check_bandwidth,
    check_snr,
)
from cutlayer.errors import ConfigError
from cutlayer.units import linear_from_db

# keeps these streams apart from those that other parts of a run make of the same seed
_CHANNEL = int.from_bytes(b"chan")
# below this, correlation is less than a rounding error of a double
_FORGOTTEN = 2.0**-60


class RandomStream(IntEnum):
    """What is drawn: keeps apart what shares a seed, such as a device's place and its fading."""

    UPLINK_FADING = 1
    DOWNLINK_FADING = 2
    DISTANCE = 3
    SIGHT = 4
    SHADOWING = 5


def channel_generator(seed: int, stream: RandomStream, index: int = 0) -> np.random.Generator:
    """The generator of (seed, stream, index), whatever else was drawn.

    Raises ConfigError for a negative seed.
    """
    check_seed(seed)
    return np.random.default_rng([seed, _CHANNEL, int(stream), index])


def check_seed(seed: int) -> None:
    """Raise ConfigError for a negative seed."""
    if seed < 0:
        raise ConfigError(f"a seed must be 0 or more, not {seed}")


class Fading(ABC):
    """By how much each device's power is above or below its mean in a round: gains of mean 1."""

    @abstractmethod
    def gains(
        self, round_number: int, devices: int, seed: int, stream: RandomStream
    ) -> Float64[np.ndarray, " device"]:
        """Each device's power gain (linear, mean 1) in round 1, 2, ...

        `stream` tells one direction's stream from the other's. Raises ConfigError for a round
        before 1, no devices, or a negative seed.
        """


@final
@dataclass(frozen=True)
class NoFading(Fading):
    """Gains of 1."""

    def gains(
        self, round_number: int, devices: int, seed: int, stream: RandomStream
    ) -> Float64[np.ndarray, " device"]:
        """Ones."""
        _check(round_number, devices)
        return np.ones(devices)


@final
@dataclass(frozen=True)
class Rayleigh(Fading):
    """|h|^2 with h ~ CN(0, 1), so exponential of mean 1: no line of sight, redrawn each round."""

    def gains(
        self, round_number: int, devices: int, seed: int, stream: RandomStream
    ) -> Float64[np.ndarray, " device"]:
        """Independent from round to round."""
        _check(round_number, devices)
        return _power(_scatter(devices, seed, stream, round_number), k=0.0)


@final
@dataclass(frozen=True)
class Rician(Fading):
    """A steady path beside the scattered ones, redrawn each round.

    |sqrt(K / (K + 1)) + sqrt(1 / (K + 1)) h|^2 with h ~ CN(0, 1); `k_db` is K, the steady
    path's power over that of all others. Variance of the gain: (2 K + 1) / (K + 1)^2.
    """

    k_db: float

    def __post_init__(self) -> None:
        _check_k(self.k_db)

    def gains(
        self, round_number: int, devices: int, seed: int, stream: RandomStream
    ) -> Float64[np.ndarray, " device"]:
        """Independent from round to round."""
        _check(round_number, devices)
        return _power(_scatter(devices, seed, stream, round_number), linear_from_db(self.k_db))


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
        self, round_number: int, devices: int, seed: int, stream: RandomStream
    ) -> Float64[np.ndarray, " device"]:
        """The same for the same round, in whatever order rounds are asked for."""
        _check(round_number, devices)
        k = 0.0 if self.k_db is None else linear_from_db(self.k_db)
        return _power(self._amplitude(round_number, devices, seed, stream), k)

    def _amplitude(
        self, round_number: int, devices: int, seed: int, stream: RandomStream
    ) -> Complex128[np.ndarray, " device"]:
        span = _span(self.correlation)
        left = round_number - round_number % span
        at_left = _scatter(devices, seed, stream, left)
        if left == round_number:
            return at_left
        at_right = _scatter(devices, seed, stream, left + span)
        while True:
            span //= 2
            middle = left + span
            b = self.correlation**span
            w = _scatter(devices, seed, stream, middle)
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
    devices: int, seed: int, stream: RandomStream, index: int
) -> Complex128[np.ndarray, " device"]:
    """CN(0, 1): two normals of variance 1/2 a device, devices one after another."""
    parts = channel_generator(seed, stream, index).standard_normal((devices, 2))
    return np.asarray((parts[:, 0] + 1j * parts[:, 1]) / math.sqrt(2.0))


def _power(h: Complex128[np.ndarray, " device"], k: float) -> Float64[np.ndarray, " device"]:
    steady, scattered = math.sqrt(k / (k + 1)), math.sqrt(1 / (k + 1))
    return np.asarray((steady + scattered * h.real) ** 2 + (scattered * h.imag) ** 2)


def _check_k(k_db: float) -> None:
    # beyond 100 dB nothing fades, and K would overflow somewhere
    if not -100 <= k_db <= 100:
        raise ConfigError(f"a Rician K must be from -100 to 100 dB, not {k_db}")


def _check(round_number: int, devices: int) -> None:
    if round_number < 1:
        raise ConfigError(f"rounds count from 1, not {round_number}")
    if devices < 1:
        raise ConfigError(f"fading needs at least one device, not {devices}")


@final
@dataclass(frozen=True, eq=False)
class SnrChannel(Channel):
    """Rates from mean SNR values over the whole bandwidth [dB], faded anew (or not) each round.

    Devices have shares of the bandwidth side by side and do not disturb each other. `uplink_law` is
    `ConstantPower` where each device sends with its full power. The downlink's is `ConstantSnr` as
    a rule: the server's power is spread over the whole bandwidth, so a device's part of it goes
    with its share; `ConstantPower` there would give every device all of it at once.

    `reciprocal`: both directions fade alike, as on one carrier frequency in turn (time division,
    what bands at 3.5 GHz and above use); False for two carriers (frequency division), where they
    fade independently. Raises ConfigError for a bandwidth, SNR, count or seed that cannot be.
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
                f"{len(up)} uplink and {len(down)} downlink SNR values: give one each "
                "way for each device"
            )
        for snr_db in (*up.tolist(), *down.tolist()):
            check_snr(snr_db)
        check_seed(self.seed)

    def curves(self, round_number: int, start_s: float) -> RateCurves:
        """One fade a round, whenever it begins."""
        return self._curves(*self.snr_db(round_number))

    def mean_curves(self) -> RateCurves:
        """Those of the mean SNR values, as without fading."""
        return self._curves(self.uplink_snr_db, self.downlink_snr_db)

    @property
    def devices(self) -> int:
        """How many devices it serves."""
        return len(self.uplink_snr_db)

    def snr_db(
        self, round_number: int
    ) -> tuple[Float64[np.ndarray, " device"], Float64[np.ndarray, " device"]]:
        """Each device's SNR in a round [dB], uplink and downlink, over the whole bandwidth."""
        up = self.fading.gains(round_number, self.devices, self.seed, RandomStream.UPLINK_FADING)
        down = (
            up
            if self.reciprocal
            else self.fading.gains(
                round_number, self.devices, self.seed, RandomStream.DOWNLINK_FADING
            )
        )
        return self.uplink_snr_db + _db(up), self.downlink_snr_db + _db(down)

    def _curves(
        self, up_db: Float[np.ndarray, " device"], down_db: Float[np.ndarray, " device"]
    ) -> RateCurves:
        return RateCurves(
            ShannonRates(self.uplink_law, self.bandwidth_hz, up_db),
            ShannonRates(self.downlink_law, self.bandwidth_hz, down_db),
        )


def _db(gain: Float64[np.ndarray, " device"]) -> Float64[np.ndarray, " device"]:
    return np.asarray(10.0 * np.log10(gain))
