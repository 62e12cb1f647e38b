"""Two-way contexts against the adaptive entropy, and the law that fewer details cost less."""

import numpy as np
import pytest

from codec.adaptive import entropy_bits
from codec.test_coder import heavy_tailed
from cutlayer.codec.kernels.load import load_kernels
from cutlayer.codec.two_way import TwoWay

KERNELS = load_kernels()
# the 32 lanes of the code begin with 16 bits each that say nothing, and end with 8 on average
LANE_BYTES = 96


def size_bytes(symbols):
    sections = TwoWay().encode(symbols, KERNELS)
    np.testing.assert_array_equal(
        TwoWay().decode(sections, *symbols.shape, KERNELS), symbols, strict=True
    )
    return sum(map(len, sections.values()))


@pytest.mark.parametrize("step", [1.0, 4.0, 12.0])
@pytest.mark.parametrize(("shape", "tolerance"), [((272, 384), 0.015), ((1088, 384), 0.01)])
def test_it_costs_hardly_more_than_the_adaptive_entropy(shape, tolerance, step):
    symbols = heavy_tailed(*shape, np.random.default_rng(0), step)
    # the entropy pays for learning tables, but not for scores: their bytes are the tolerance
    assert size_bytes(symbols) - LANE_BYTES < (1 + tolerance) * entropy_bits(symbols) / 8


def test_a_coarser_step_costs_less():
    sizes = [
        size_bytes(heavy_tailed(200, 300, np.random.default_rng(1), step))
        for step in (0.5, 1, 2, 4, 8, 16, 32, 64, 1000)
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_rows_and_columns_of_zeros_cost_nearly_nothing():
    symbols = heavy_tailed(100, 200, np.random.default_rng(2))
    wider = np.zeros((1000, 1500), dtype=np.int16)
    wider[:100, :200] = symbols
    # their number, twice, in at most 23 bits each
    assert size_bytes(wider) <= size_bytes(symbols) + 6


def test_columns_of_one_sign_cost_no_sign_bits():
    rng = np.random.default_rng(3)
    magnitudes = np.abs(heavy_tailed(300, 200, rng))
    signs = np.where(rng.random(200) < 0.5, 1, -1).astype(np.int16)
    mixed = np.where(rng.random(magnitudes.shape) < 0.5, 1, -1).astype(np.int16)
    saved_bits = 8 * (size_bytes(magnitudes * mixed) - size_bytes(magnitudes * signs))
    # a bit for each symbol, but for one a column and what 12-bit tables of both signs cost (1 %)
    assert saved_bits > 0.99 * np.count_nonzero(magnitudes) - 200 * 3


def test_side_information_is_a_small_part():
    rng = np.random.default_rng(4)
    scales = np.exp(rng.normal(size=(272, 1))) * np.exp(rng.normal(size=384))
    symbols = np.trunc(scales * rng.laplace(size=(272, 384)) / 4).astype(np.int16)
    sections = TwoWay().encode(symbols, KERNELS)
    side = sum(len(section) for name, section in sections.items() if name != "code")
    # The logarithms of the scales have a deviation of 1.44 octaves. Cells at the width that the
    # coder chooses, at least 1/4, are told apart by log2(1.44 sqrt(2 pi e) / width) < 4.6 bits;
    # 20 tables of at most 11 numbers of 5 bits
    assert side < (4.6 * (272 + 384) + 5 * 20 * 11) / 8


def test_many_chunks_come_back():
    rng = np.random.default_rng(5)
    symbols = rng.integers(-1, 2, (3000, 1000)).astype(np.int16)
    # log2(3) bits each; 2 chunks
    assert size_bytes(symbols) == pytest.approx(3e6 * np.log2(3) / 8, rel=0.002)
