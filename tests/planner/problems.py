"""Problems of the bandwidth's shares, by hand and at random, for the tests of every solver."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from hypothesis import strategies as st
from jaxtyping import Float64

from cutlayer.channel.rates import (
    ConstantPower,
    ConstantSnr,
    ProportionalRates,
    RateCurve,
    RateCurves,
    ShannonRates,
)
from cutlayer.planner.bandwidth import BandwidthProblem

LAWS = (ConstantSnr(), ConstantPower())


@final
@dataclass(frozen=True)
class RootRates(RateCurve):
    """A concave rate of no radio's: the root of the share."""

    bit_per_s: float = 1e6

    def rate_bit_per_s(
        self, share: Float64[np.ndarray, " device"]
    ) -> Float64[np.ndarray, " device"]:
        return self.bit_per_s * np.sqrt(share)

    def slope_bit_per_s(
        self, share: Float64[np.ndarray, " device"]
    ) -> Float64[np.ndarray, " device"]:
        return 0.5 * self.bit_per_s / np.sqrt(share)


def problem(
    fixed_s: Sequence[float],
    share_s: Sequence[float],
    most: Sequence[float] | float = 1.0,
    weights: Sequence[float] | float = 1.0,
) -> BandwidthProblem:
    """Devices whose transfers up would take `share_s` seconds on the whole bandwidth."""
    devices = len(fixed_s)
    rates = ProportionalRates(np.ones(devices))
    return BandwidthProblem(
        np.array(fixed_s, dtype=float),
        np.array(share_s, dtype=float),
        np.zeros(devices),
        RateCurves(rates, rates),
        np.broadcast_to(np.array(most, dtype=float), devices).copy(),
        np.broadcast_to(np.array(weights, dtype=float), devices).copy(),
    )


def random_problem(
    rng: np.random.Generator, devices: int, *, caps: bool = False, power: bool = False
) -> BandwidthProblem:
    """Ratios over up to 30 dB, fixed seconds and bits over a factor of 100 each."""
    snr_db = 17 + rng.uniform(0, 30) * rng.uniform(-0.5, 0.5, devices)
    rates = ShannonRates(LAWS[power], 5e6, snr_db)
    return BandwidthProblem(
        10.0 ** rng.uniform(0, 2, devices),
        10.0 ** rng.uniform(6, 8, devices),
        10.0 ** rng.uniform(6, 8, devices),
        RateCurves(rates, rates),
        np.full(devices, min(1.0, rng.uniform(1.2, 4) / devices) if caps else 1.0),
        10.0 ** rng.uniform(-0.5, 0.5, devices) if caps else np.ones(devices),
    )


def extreme_problem(rng: np.random.Generator, devices: int) -> BandwidthProblem:
    """Ratios over 120 dB, seconds over a factor of 10^12, bits of 10^10, caps from a millionth of
    the band, weights of 10^6; some devices idle, some without a rate, every kind of rate."""
    snr_db = np.where(rng.random(devices) < 0.05, -np.inf, rng.uniform(-60, 60, devices))
    up = ShannonRates(LAWS[rng.integers(2)], 5e6, snr_db)
    down = ShannonRates(LAWS[rng.integers(2)], 5e6, rng.permutation(snr_db))
    most_db = rng.uniform(-60 if rng.random() < 0.2 else -15, 10, devices)
    return BandwidthProblem(
        10.0 ** rng.uniform(-6, 6, devices) * (rng.random(devices) < 0.9),
        10.0 ** rng.uniform(0, 10, devices) * (rng.random(devices) < rng.choice([0.5, 1.0])),
        10.0 ** rng.uniform(0, 10, devices) * (rng.random(devices) < rng.choice([0.0, 0.5, 1.0])),
        RateCurves(RootRates() if rng.random() < 0.2 else up, down),
        np.minimum(1.0, 10.0 ** (most_db / 10)),
        10.0 ** rng.uniform(-3, 3, devices),
    )


def problems(most_devices: int = 12) -> st.SearchStrategy[BandwidthProblem]:
    """Random problems, with caps and weights or without, of either rate law."""
    return st.builds(
        lambda seed, devices, caps, power: random_problem(
            np.random.default_rng(seed), devices, caps=caps, power=power
        ),
        st.integers(0, 2**32 - 1),
        st.integers(1, most_devices),
        st.booleans(),
        st.booleans(),
    )


def with_rates(problem: BandwidthProblem, rates: RateCurve) -> BandwidthProblem:
    """The same, by other rates both ways."""
    return replace(problem, curves=RateCurves(rates, rates))
