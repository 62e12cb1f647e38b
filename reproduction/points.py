"""The published codec at a point: how sparse, how many bits, which codec, how many bytes.

By arithmetic for what is not coded, by `expected_bytes` of our codecs for what is: independent
Laplace values, at the shape of ViT-B's activation. Knows no round and no scheme.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from cutlayer.codec.codec import CodecPair
from cutlayer.codec.presets import none, paper, paper_rans
from cutlayer.profiling.grid import ShadowCodec
from reproduction.evaluation import EVALUATION


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


FLOAT32_BITS = 32
PAPER_WIDTH = 768  # ViT-B, whose activations the paper compresses
# what it tells of `CLAIMED`: sparse and quantised, and coded on top
SPARSIFIED_RATIO, CODED_RATIO = Decimal("12"), Decimal("20")
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


def indexed_ratio(width: int, point: Point, sign: bool) -> float:
    """How many times fewer bits than float32, by a column index for each kept value.

    32 / (rho (ceil(log2 width) + q [+ 1 for the sign])). Source: SFT section VI-B.3, whose 12x is
    this without a sign.
    """
    kept_bits = math.ceil(math.log2(width)) + point.bits + int(sign)
    return FLOAT32_BITS / (point.keep_ratio * kept_bits)


def codecs_of(point: Point) -> CodecPair:
    """`paper` both ways; activations are also counted as `paper-rans` would code them."""
    if point == UNCOMPRESSED:
        return none()
    sent = paper(point.keep_ratio, point.levels)
    same_values = paper_rans(point.keep_ratio, point.levels)
    return CodecPair(ShadowCodec(sent.up, same_values.up), sent.down)


@dataclass(frozen=True)
class Method:
    """A way to compress and the bits that it leaves of each of the activation's values."""

    name: str
    bits: float

    @property
    def percent(self) -> float:
        """What is sent of the float32 activation [%]."""
        return 100 * self.bits / FLOAT32_BITS

    @property
    def ratio(self) -> float:
        """How many times fewer bytes than float32."""
        return FLOAT32_BITS / self.bits


def methods(point: Point = CLAIMED) -> tuple[Method, ...]:
    """From none to all of the paper's, and what our lossless stage makes of the same values.

    With rho the kept share, q the bits of a level and 1 for its sign: `32`, `rho (32 + i)` where i
    bits name the column, `q + 1`, `rho (q + 1 + i)`, and two coded.
    """
    rho, q, i = point.keep_ratio, point.bits, math.ceil(math.log2(EVALUATION.dimensions.width))
    return (
        Method("no compression", FLOAT32_BITS),
        Method("sparsification", rho * (FLOAT32_BITS + i)),
        Method("quantisation", q + 1),
        Method("both, indexed columns", rho * (q + 1 + i)),
        Method("both, lossless coding", coded(point).bits),
        Method("same values, paper-rans", _expected_bits(paper_rans, point)),
    )


def coded(point: Point) -> Method:
    """The paper's codec at a point: Golomb gaps, level and sign bits."""
    return Method(str(point), _expected_bits(paper, point))


def nearest_to(percent: float, keep_ratio: float = CLAIMED.keep_ratio) -> tuple[Point, Method]:
    """The number of bits at which the paper's codec comes nearest to sending `percent`."""
    points = [Point(keep_ratio, bits) for bits in range(1, 9)]
    found = min(points, key=lambda point: abs(coded(point).percent - percent))
    return found, coded(found)


def _expected_bits(preset: Callable[[float, int], CodecPair], point: Point) -> float:
    """Bits for each value of ViT-B's activation."""
    batch = EVALUATION.batch
    shape = (batch.samples, batch.tokens, EVALUATION.dimensions.width)
    return 8 * preset(point.keep_ratio, point.levels).up.expected_bytes(shape) / math.prod(shape)
