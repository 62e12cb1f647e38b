"""The compositions that have names: `paper`, `lossless-plus`, `best`, `fast`, `none`.

A pair is one codec for each direction, since activations and gradients need different ones.
"""

from dataclasses import dataclass

from cutlayer.codec.codec import Codec
from cutlayer.codec.dead_zone import DeadZone
from cutlayer.codec.fixed_width import FixedWidth
from cutlayer.codec.golomb_coder import Golomb
from cutlayer.codec.integer import Integer
from cutlayer.codec.learned import LearnedBasis
from cutlayer.codec.levels import StochasticLevels
from cutlayer.codec.raw import RawCodec
from cutlayer.codec.sparsify import TopK
from cutlayer.codec.staged import StagedCodec
from cutlayer.codec.step import StepRule, TargetBits
from cutlayer.codec.transform import Hadamard
from cutlayer.codec.two_way import TwoWay


@dataclass(frozen=True)
class CodecPair:
    """What activations (up) and their gradients (down) go through."""

    up: Codec
    down: Codec


def none() -> CodecPair:
    """float32, every bit."""
    return CodecPair(RawCodec(), RawCodec())


def paper(keep_ratio: float = 0.2, levels: int = 7) -> CodecPair:
    """As published: Top-K per sample, stochastic levels, Golomb gaps, plain level and sign bits.

    The defaults are the paper's "80 % sparsity and 3 bits". Source: SFT section IV-C.
    """
    codec = StagedCodec(StochasticLevels(levels), Golomb(), sparsify=TopK(keep_ratio))
    return CodecPair(codec, codec)


def lossless_plus(keep_ratio: float = 0.2, levels: int = 7) -> CodecPair:
    """The same symbols as `paper`, hence the same tensors bit for bit, in fewer bytes."""
    codec = StagedCodec(StochasticLevels(levels), TwoWay(), sparsify=TopK(keep_ratio))
    return CodecPair(codec, codec)


ACTIVATION_BITS = TargetBits(0.6)
GRADIENT_BITS = TargetBits(0.3)


def best(
    up: StepRule = ACTIVATION_BITS, down: StepRule = GRADIENT_BITS, share: float = 1 / 3
) -> CodecPair:
    """A learned basis and a dead-zone quantiser, whose steps follow `up` and `down`.

    Activations are centred and keep the `share` of the basis' columns that hold most energy;
    gradients are neither centred nor truncated.
    """
    return CodecPair(
        StagedCodec(DeadZone(up), TwoWay(), centre=True, transform=LearnedBasis(share)),
        StagedCodec(DeadZone(down), TwoWay(), transform=LearnedBasis(coarseness=2.0)),
    )


def fast() -> CodecPair:
    """Hadamard and four bits, nothing entropy-coded: for links above 500 Mbit/s."""
    codec = StagedCodec(Integer(4), FixedWidth(), transform=Hadamard())
    return CodecPair(codec, codec)
