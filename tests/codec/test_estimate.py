"""Closed forms for a planner, against drawn values."""

import numpy as np
import pytest

from cutlayer.codec.dead_zone import dead_zone_probabilities, dead_zone_step
from cutlayer.codec.entropy import encode_positions, gap_bits, signed_entropy
from cutlayer.codec.quantisers import level_probabilities


@pytest.mark.parametrize("share", [0.01, 0.1, 0.2, 0.5, 0.7, 0.99])
def test_gap_bits_are_those_of_a_random_set(share):
    universe = 200_000
    positions = np.flatnonzero(np.random.default_rng(0).random(universe) < share)
    code = encode_positions(positions, universe)
    spent_bits = 8 * (len(code.quotients) + len(code.remainders))
    # the sum of n >= 2000 geometric gaps has a relative standard deviation of at most 1/sqrt(n),
    # 2.2 %, of which the logarithmic cost of a gap shows less than half; three of them
    assert gap_bits(positions.size, universe) == pytest.approx(spent_bits, rel=0.03)


@pytest.mark.parametrize("count", [0, 100])
def test_gap_bits_of_nothing_and_everything_are_none(count):
    assert gap_bits(count, 100) == 0


@pytest.mark.parametrize("intervals", [1, 7, 31, 255])
def test_level_probabilities_are_those_of_quantised_exponential_values(intervals):
    kept, samples = 5000, 200
    rng = np.random.default_rng(0)
    excess = rng.exponential(size=(samples, kept))
    place = (excess - excess.min(1, keepdims=True)) / np.ptp(excess, 1)[:, None] * intervals
    levels = np.floor(place + rng.random(place.shape)).astype(int)
    shares = np.bincount(levels.reshape(-1), minlength=intervals + 1) / levels.size
    # the form puts every sample's largest value at its mean; it varies by 1.28 around 9.1 (a Gumbel
    # variable), so that a sample's densities are off by 14 %, and their mean over 200 samples by
    # the square of that, 2 %, and by chance, 1 %: 3 % of all values may be at another point
    probabilities = level_probabilities(kept, intervals)
    assert probabilities.sum() == pytest.approx(1)
    assert np.abs(shares - probabilities).sum() < 2 * 0.03


@pytest.mark.parametrize("step", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("rounding", [0.2, 0.5])
def test_dead_zone_probabilities_are_those_of_drawn_values(step, rounding):
    draws = np.abs(np.random.default_rng(0).laplace(scale=np.sqrt(0.5), size=200_000))
    symbols = np.floor(draws / step + rounding).astype(int)
    probabilities = dead_zone_probabilities(step, rounding)
    shares = np.bincount(symbols, minlength=probabilities.size) / symbols.size
    # a share of 200,000 draws has a standard deviation of at most 0.0011
    np.testing.assert_allclose(shares[: probabilities.size], probabilities, atol=5 * 0.0011)


@pytest.mark.parametrize("bits", [0.05, 0.6, 2.0, 5.0])
def test_the_dead_zone_step_takes_the_bits_asked_for(bits):
    step = dead_zone_step(bits, 0.35)
    magnitudes = dead_zone_probabilities(step, 0.35)
    assert signed_entropy(magnitudes) == pytest.approx(bits, rel=1e-3)


def test_entropy_of_even_outcomes_is_the_logarithm_of_their_number():
    # 2 bits for a magnitude, and a sign for three in four
    assert signed_entropy(np.array([0.25, 0.25, 0.25, 0.25, 0.0])) == pytest.approx(2.75)
    assert signed_entropy(np.array([0.5, 0.5])) == pytest.approx(1.5)
