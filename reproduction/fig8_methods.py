"""The ways to compress of Fig. 8(b): how much of the float32 activation each one leaves.

By arithmetic for what is not coded, by `expected_bytes` of our codecs for what is: independent
Laplace values, at the shape of ViT-B's activation. Knows no round and no scheme.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from cutlayer.codec.staged import CodecPair, paper, paper_rans
from reproduction.fig7_grid import CLAIMED, Point
from reproduction.setting import EVALUATION

_FLOAT32_BITS = 32


@dataclass(frozen=True)
class Method:
    """A way to compress and the bits that it leaves of each of the activation's values."""

    name: str
    bits: float

    @property
    def percent(self) -> float:
        """What is sent of the float32 activation [%]."""
        return 100 * self.bits / _FLOAT32_BITS

    @property
    def ratio(self) -> float:
        """How many times fewer bytes than float32."""
        return _FLOAT32_BITS / self.bits


def methods(point: Point = CLAIMED) -> tuple[Method, ...]:
    """From none to all of the paper's, and what our lossless stage makes of the same values.

    With rho the kept share, q the bits of a level and 1 for its sign: `32`, `rho (32 + i)` where i
    bits name the column, `q + 1`, `rho (q + 1 + i)`, and two coded.
    """
    rho, q, i = point.keep_ratio, point.bits, math.ceil(math.log2(EVALUATION.dimensions.width))
    return (
        Method("no compression", _FLOAT32_BITS),
        Method("sparsification", rho * (_FLOAT32_BITS + i)),
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
