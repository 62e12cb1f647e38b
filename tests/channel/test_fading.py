"""Fading: moments against their closed forms, memory, and purity."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.channel.fading import Fading, GaussMarkov, NoFading, RandomStream, Rayleigh, Rician
from cutlayer.errors import ConfigError

UP, DOWN = RandomStream.UPLINK_FADING, RandomStream.DOWNLINK_FADING
FADINGS: tuple[Fading, ...] = (
    NoFading(),
    Rayleigh(),
    Rician(6.0),
    GaussMarkov(0.0),
    GaussMarkov(0.9),
    GaussMarkov(0.999, k_db=3.0),
)
RANDOM = FADINGS[1:]
DRAWS = 100_000
# five standard errors: one test in two million fails by chance, and seeds are fixed
SIGMAS = 5.0


def rician_variance(k: float) -> float:
    return (2 * k + 1) / (k + 1) ** 2


@pytest.mark.parametrize(
    ("fading", "variance"),
    [
        (Rayleigh(), 1.0),
        (Rician(0.0), rician_variance(1.0)),
        (Rician(10.0), rician_variance(10.0)),
        (Rician(-100.0), 1.0),
        (GaussMarkov(0.9), 1.0),
        (GaussMarkov(0.99, k_db=10.0), rician_variance(10.0)),
    ],
)
@pytest.mark.parametrize("round_number", [1, 512, 1000])
def test_mean_and_variance(fading: Fading, variance: float, round_number: int) -> None:
    gains = fading.gains(round_number, DRAWS, 0, UP)
    assert (gains >= 0).all()
    assert gains.mean() == pytest.approx(1.0, abs=SIGMAS * math.sqrt(variance / DRAWS))
    # the error of a variance is sqrt((m4 - variance^2) / n); m4 is at most 9, that of Rayleigh's
    assert gains.var() == pytest.approx(variance, abs=SIGMAS * math.sqrt(9 / DRAWS))


def test_rayleigh_gains_are_exponential() -> None:
    gains = Rayleigh().gains(3, DRAWS, 1, UP)
    for level in (0.05, 0.5, 1.0, 3.0):
        share = 1 - math.exp(-level)
        error = math.sqrt(share * (1 - share) / DRAWS)
        assert (gains < level).mean() == pytest.approx(share, abs=SIGMAS * error)


@pytest.mark.parametrize("correlation", [0.3, 0.9, 0.995])
def test_gauss_markov_remembers_as_it_should(correlation: float) -> None:
    """The correlation of two gains is a^(2 lag), across the ends of stretches too.

    Gains are |h|^2: cov(|h_s|^2, |h_t|^2) = |E h_s h_t*|^2 = a^(2 |t - s|) (Isserlis).
    """
    # stretches are 64, 512 and 16384 rounds; 0.995^2 forgets in a thousand
    rounds = [1, 2, 3, 5, 9, 62, 64, 65, 511, 512, 513, 16384, 16385]
    fading = GaussMarkov(correlation)
    gains = np.stack([fading.gains(t, DRAWS, 2, UP) - 1.0 for t in rounds])
    measured = gains @ gains.T / DRAWS
    lags = np.abs(np.subtract.outer(rounds, rounds))
    # a product of two has at most the variance of the fourth power's mean: 9
    np.testing.assert_allclose(measured, correlation ** (2.0 * lags), atol=SIGMAS * 3 / DRAWS**0.5)


def test_next_round_given_this_one() -> None:
    """After a deep fade little is left of h: E |h_t|^2 = a^2 |h_{t-1}|^2 + 1 - a^2."""
    a = 0.99
    before, after = (GaussMarkov(a).gains(t, DRAWS, 0, UP) for t in (700, 701))
    faded = before < 0.001  # about 100 devices
    mean = after[faded].mean()
    # from 0.0199 to 0.0209, where all devices' mean is 1; a mean of n exponentials is uncertain by
    # 1 / sqrt(n)
    expected = a * a * before[faded].mean() + 1 - a * a
    assert faded.sum() > 50
    assert mean == pytest.approx(expected, rel=SIGMAS / math.sqrt(faded.sum()))


def test_no_memory_is_redrawn_each_round() -> None:
    first = GaussMarkov(0.0).gains(1, 5, 7, UP)
    assert np.array_equal(first, Rayleigh().gains(1, 5, 7, UP))
    assert np.array_equal(NoFading().gains(4, 3, 0, UP), [1.0, 1.0, 1.0])


@pytest.mark.parametrize("fading", FADINGS)
@given(st.integers(1, 10**12), st.integers(1, 40), st.integers(0, 2**64))
def test_gains_are_pure_and_do_not_know_the_other_devices(
    fading: Fading, round_number: int, devices: int, seed: int
) -> None:
    gains = fading.gains(round_number, devices, seed, UP)
    fading.gains(round_number + 1, devices, seed, UP)
    assert gains.shape == (devices,) and gains.dtype == np.float64
    assert np.array_equal(gains, fading.gains(round_number, devices, seed, UP))
    assert np.array_equal(gains, fading.gains(round_number, devices + 3, seed, UP)[:devices])


@pytest.mark.parametrize("fading", RANDOM)
def test_streams_are_apart(fading: Fading) -> None:
    gains = [
        fading.gains(round_number, 4, seed, purpose)
        for round_number in (1, 2)
        for seed in (0, 1)
        for purpose in (UP, DOWN)
    ]
    assert len({tuple(values) for values in gains}) == 8


def test_the_slowest_fading_stands_still() -> None:
    # a = 1 - 2^-50: in 100 rounds h moves by sqrt(200 2^-50) = 4e-7 of its size, gains by twice
    slow = GaussMarkov(1 - 2.0**-50)
    first, later = (slow.gains(t, 100, 0, UP) for t in (10**6, 10**6 + 100))
    np.testing.assert_allclose(first, later, rtol=0, atol=3e-5)
    assert not np.array_equal(first, later)


@pytest.mark.parametrize("correlation", [-0.1, 1.0, 1.5, math.nan])
def test_correlations_that_cannot_be(correlation: float) -> None:
    with pytest.raises(ConfigError, match="from 0 to below 1"):
        GaussMarkov(correlation)


@pytest.mark.parametrize("k_db", [math.nan, math.inf, -math.inf, 101.0])
def test_a_steady_path_that_cannot_be(k_db: float) -> None:
    with pytest.raises(ConfigError, match="Rician K must be"):
        Rician(k_db)
    with pytest.raises(ConfigError, match="Rician K must be"):
        GaussMarkov(0.5, k_db)


@pytest.mark.parametrize("fading", FADINGS)
def test_rounds_and_counts_that_cannot_be(fading: Fading) -> None:
    with pytest.raises(ConfigError, match="rounds count from 1, not 0"):
        fading.gains(0, 1, 0, UP)
    with pytest.raises(ConfigError, match="at least one device"):
        fading.gains(1, 0, 0, UP)


@pytest.mark.parametrize("fading", RANDOM)
def test_a_negative_seed_cannot_be(fading: Fading) -> None:
    with pytest.raises(ConfigError, match="seed must be 0 or more, not -1"):
        fading.gains(1, 1, -1, UP)
