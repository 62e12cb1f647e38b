"""Compression by the entropy of positions and by what codecs expect of themselves."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.codec.codec import Codec
from cutlayer.codec.presets import paper, paper_rans
from cutlayer.errors import ConfigError
from cutlayer.planner.configuration import EntropyRatio, TabledRatio

SHAPE = (8, 197, 768)
KEEP_RATIOS = np.array([0.05, 0.1, 0.3, 0.6])
BITS = np.array([1.0, 3.0, 8.0])


def codec_ratio(codec_of: Callable[[float, int], Codec]) -> TabledRatio:
    """What codecs expect of their own packets; `codec_of` takes keep ratio and levels."""
    sent = [
        [codec_of(float(rho), round(2.0 ** float(q)) - 1).expected_bytes(SHAPE) for q in BITS]
        for rho in KEEP_RATIOS
    ]
    return TabledRatio(KEEP_RATIOS, BITS, np.array(sent) / (4 * float(np.prod(SHAPE))))


@given(st.floats(0.001, 0.999), st.floats(1, 8))
def test_the_entropy_ratio_is_that_of_signs_levels_and_positions(rho: float, q: float) -> None:
    (ratio,) = EntropyRatio().at(np.array([rho]), np.array([q]))
    positions = -rho * np.log2(rho) - (1 - rho) * np.log2(1 - rho)
    assert ratio == pytest.approx((rho * (1 + q) + positions) / 32, rel=1e-12)
    # it rises up to 1 / (1 + 2^-(1+q)), and falls from there on
    turn = 1 / (1 + 2.0 ** -(1 + q))
    after = EntropyRatio().at(np.array([rho + 1e-4]), np.array([q]))[0]
    if rho + 1e-4 < turn:
        assert after > ratio
    if rho > turn:
        assert after < ratio


def test_with_everything_kept_there_are_no_positions() -> None:
    assert EntropyRatio().at(np.ones((2, 1)), np.full((2, 1), 3.0)).tolist() == [[0.125]] * 2


def test_a_table_is_what_the_codec_expects() -> None:
    table = codec_ratio(lambda rho, levels: paper(rho, levels).up)
    wanted = paper(0.3, 7).up.expected_bytes(SHAPE) / (4 * 8 * 197 * 768)
    two = table.at(np.array([0.3, 0.2]), np.array([3.0, 3.0]))
    assert two[0] == pytest.approx(wanted, rel=1e-12)
    ends = table.at(np.array([0.1, 0.3]), np.array([3.0, 3.0]))
    assert two[1] == pytest.approx(ends.mean(), rel=1e-12)


def test_between_the_bits_of_a_table_there_are_lines() -> None:
    table = codec_ratio(lambda rho, levels: paper(rho, levels).up)
    low, middle, high = table.at(np.full(3, 0.2), np.array([3.0, 4.0, 8.0]))
    assert middle == pytest.approx(low + (high - low) / 5, rel=1e-12)
    # a level takes as many bits as it has, but few of the finest levels are ever used
    itself = paper(0.2, 15).up.expected_bytes(SHAPE) / (4 * 8 * 197 * 768)
    assert middle == pytest.approx(itself, rel=0.05)


def test_golomb_is_near_the_entropy_and_the_better_coder_below() -> None:
    rho, q = (axis.ravel() for axis in np.meshgrid(KEEP_RATIOS[:3], BITS))
    entropy = EntropyRatio().at(rho, q)
    plain, better = (
        codec_ratio(lambda rho, levels, of=of: of(rho, levels).up) for of in (paper, paper_rans)
    )
    assert plain.at(rho, q) == pytest.approx(entropy, rel=0.05)
    assert (better.at(rho, q) < plain.at(rho, q)).all()


@pytest.mark.parametrize("place", [(0.04, 3.0), (0.7, 3.0), (0.1, 9.0), (np.nan, 3.0)])
def test_a_table_knows_its_ends(place: tuple[float, float]) -> None:
    table = codec_ratio(lambda rho, levels: paper(rho, levels).up)
    with pytest.raises(ConfigError, match=r"known for keep ratios 0\.05 to 0\.6 and 1 to 8 bits"):
        table.at(*(np.array([value]) for value in place))
