"""Two codecs on one stream: the first is sent, the second is counted."""

import numpy as np
import pytest
from codec.ends import Ends, correlated

from cutlayer.codec.codec import EMPTY, Codec
from cutlayer.codec.presets import best, none, paper, paper_rans
from cutlayer.profiling.grid import ShadowCodec, other_bytes


@pytest.mark.parametrize(
    ("codec", "other"),
    [(paper().up, paper_rans().up), (best().up, paper().up), (none().up, best().up)],
    ids=["paper", "best", "none"],
)
def test_each_makes_what_it_makes_alone(codec: Codec, other: Codec) -> None:
    both, own, second = Ends(ShadowCodec(codec, other)), Ends(codec), Ends(other)
    total = 0
    for step in range(3):
        tensor = correlated((4, 6, 16), seed=step)
        # the second starts each packet from the first one's generator state
        second.rng.bit_generator.state = own.rng.bit_generator.state
        total += len(second.send(tensor)[0])
        packet, decoded = own.send(tensor)
        packet_both, decoded_both = both.send(tensor)
        assert packet_both == packet
        assert np.array_equal(decoded_both.tensor, decoded.tensor)
        assert other_bytes(both.sender) == total
    assert other_bytes(EMPTY) == 0


def test_the_same_symbols_decode_alike() -> None:
    """What makes `paper-rans` beside `paper` a fair comparison."""
    tensor = correlated((4, 6, 16))
    ends = [Ends(paper().up), Ends(paper_rans().up)]
    sent, other = (end.send(tensor)[1].tensor for end in ends)
    assert np.array_equal(sent, other)


def test_padding_and_expected_bytes_are_the_first_ones() -> None:
    pair = ShadowCodec(paper().up, paper_rans().up)
    tensor = correlated((3, 6, 16))
    tensor[0, 2:] = np.nan
    _, decoded = Ends(pair).send(tensor, lengths=[2, 6, 6])
    assert decoded.lengths == (2, 6, 6)
    assert pair.expected_bytes((3, 6, 16)) == paper().up.expected_bytes((3, 6, 16))
