"""The points of Fig. 7: how sparse, how many bits; and the codec of each."""

from dataclasses import dataclass

from cutlayer.codec.staged import CodecPair, none, paper, paper_rans
from cutlayer.profiling.grid import ShadowCodec


@dataclass(frozen=True)
class Point:
    """The share of values that is kept (the paper's rho) and q, the bits of a kept one's level.

    A sparsity in the paper's text is 1 - rho. (17) counts levels where the figure counts bits: q
    bits are `levels` = 2^q - 1 intervals between 2^q points, the sign not counted.
    """

    keep_ratio: float
    bits: int

    @property
    def sparsity(self) -> float:
        """The share of values that is dropped, in per cent."""
        return round(100 * (1 - self.keep_ratio), 6)

    @property
    def levels(self) -> int:
        """Intervals of the quantiser."""
        return int(2**self.bits - 1)

    def __str__(self) -> str:
        return f"{self.sparsity:g} % sparsity, {self.bits} bit{'s' if self.bits > 1 else ''}"


# nothing compressed: float32 both ways
UNCOMPRESSED = Point(keep_ratio=1.0, bits=32)
# what the paper calls 80 % sparsity and 3 bits
CLAIMED = Point(0.2, 3)
HALF, SPARSEST_CLAIMED = Point(0.5, 3), Point(0.1, 3)
BY_SPARSITY = (Point(1.0, 3), HALF, Point(0.3, 3), CLAIMED, SPARSEST_CLAIMED, Point(0.05, 3))
BY_BITS = (Point(0.2, 1), Point(0.2, 2), CLAIMED, Point(0.2, 4), Point(0.2, 6))
GRID = (UNCOMPRESSED, *dict.fromkeys(BY_SPARSITY + BY_BITS))
# the least that every claim can be judged by
QUICK_GRID = (UNCOMPRESSED, HALF, CLAIMED, SPARSEST_CLAIMED)


def codecs_of(point: Point) -> CodecPair:
    """`paper` both ways; activations are also counted as `paper-rans` would code them."""
    if point == UNCOMPRESSED:
        return none()
    sent = paper(point.keep_ratio, point.levels)
    same_values = paper_rans(point.keep_ratio, point.levels)
    return CodecPair(ShadowCodec(sent.up, same_values.up), sent.down)
