"""Closed forms for a planner, against drawn values; `test_paper` has the whole packet."""

import numpy as np
import pytest

from cutlayer.codec import estimate, rans
from cutlayer.codec.frequencies import normalised, table_to_bytes
from cutlayer.codec.golomb import encode_positions


@pytest.mark.parametrize("share", [0.01, 0.1, 0.2, 0.5, 0.7, 0.99])
def test_gap_bits_are_those_of_a_random_set(share):
    universe = 200_000
    positions = np.flatnonzero(np.random.default_rng(0).random(universe) < share)
    code = encode_positions(positions, universe)
    spent_bits = 8 * (len(code.quotients) + len(code.remainders))
    # the sum of n >= 2000 geometric gaps has a relative standard deviation of at most 1/sqrt(n),
    # 2.2 %, of which the logarithmic cost of a gap shows less than half; three of them
    assert estimate.gap_bits(positions.size, universe) == pytest.approx(spent_bits, rel=0.03)


@pytest.mark.parametrize("count", [0, 100])
def test_gap_bits_of_nothing_and_everything_are_none(count):
    assert estimate.gap_bits(count, 100) == 0


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
    probabilities = estimate.level_probabilities(kept, intervals)
    assert probabilities.sum() == pytest.approx(1)
    assert np.abs(shares - probabilities).sum() < 2 * 0.03


@pytest.mark.parametrize("count", [1, 3, 40, 1000, 50_000])
@pytest.mark.parametrize("intervals", [1, 7, 255])
def test_level_bits_are_those_of_drawn_levels(count, intervals):
    probabilities = estimate.level_probabilities(1000, intervals)
    rng = np.random.default_rng(0)
    spent_bits = []
    for _ in range(20):
        levels = rng.choice(intervals + 1, size=count, p=probabilities).astype(np.uint8)
        frequencies = normalised(np.bincount(levels, minlength=intervals + 1))
        code = table_to_bytes(frequencies) + rans.encode(levels, frequencies)
        spent_bits.append(8 * len(code))
    # a single state is 16 to 32 bits of the 24 counted, a code is rounded up to a word, and a point
    # present by chance adds two bytes to the table: 24 bits, or a tenth of a longer code
    expected_bits = estimate.level_bits(count, probabilities)
    assert expected_bits == pytest.approx(np.mean(spent_bits), abs=24, rel=0.1)
