"""The compositions that have names: `paper`, `paper-rans`, `best`, `fast`, `none`.

Each is a pair, one codec for each direction, since activations and gradients need different ones.
"""

from collections.abc import Callable

from cutlayer.codec.codec import CodecPair
from cutlayer.codec.dead_zone import DeadZone
from cutlayer.codec.entropy import FixedWidth, Golomb
from cutlayer.codec.pipeline import Hadamard, LearnedBasis, TopK
from cutlayer.codec.quantisers import Integer, StepRule, StochasticLevels, TargetBits
from cutlayer.codec.raw import RawCodec
from cutlayer.codec.references import References
from cutlayer.codec.staged import StagedCodec
from cutlayer.codec.two_way import TwoWay
from cutlayer.errors import ConfigError, nearest

ACTIVATION_BITS = TargetBits(0.7)
GRADIENT_BITS = TargetBits(0.4)


def none() -> CodecPair:
    """float32, every bit."""
    return CodecPair(RawCodec(), RawCodec())


def paper(keep_ratio: float = 0.2, levels: int = 7) -> CodecPair:
    """As published: Top-K per sample, stochastic levels, Golomb gaps, plain level and sign bits.

    The defaults are the paper's "80 % sparsity and 3 bits". Source: SFT section IV-C.
    """
    codec = StagedCodec(StochasticLevels(levels), Golomb(), sparsify=TopK(keep_ratio))
    return CodecPair(codec, codec)


def paper_rans(keep_ratio: float = 0.2, levels: int = 7) -> CodecPair:
    """The same symbols as `paper`, hence the same tensors bit for bit, in fewer bytes."""
    codec = StagedCodec(StochasticLevels(levels), TwoWay(), sparsify=TopK(keep_ratio))
    return CodecPair(codec, codec)


def best(
    up: StepRule = ACTIVATION_BITS,
    down: StepRule = GRADIENT_BITS,
    share: float | None = None,
    packets: int | None = None,
    reference_rows: int = 0,
) -> CodecPair:
    """A learned basis and a dead-zone quantiser, whose steps follow `up` and `down`.

    Activations are centred and keep the `share` of the basis' columns that hold most energy, or,
    without one, those that are worth bits; gradients are neither centred nor truncated. `packets`:
    how many a stream will have, if known: a basis that would not pay for itself is not sent.
    `reference_rows`: so many activations of tokens are remembered, and others coded as differences
    to them: see `References`; 0: none.
    """
    activations = StagedCodec(
        DeadZone(up, keeps_energy=True),
        TwoWay(),
        centre=True,
        transform=LearnedBasis(share, packets=packets),
    )
    gradients = StagedCodec(
        DeadZone(down), TwoWay(), transform=LearnedBasis(coarseness=2.0, packets=packets)
    )
    if reference_rows:
        return CodecPair(References(activations, reference_rows), gradients)
    return CodecPair(activations, gradients)


def fast() -> CodecPair:
    """Hadamard and four bits, nothing entropy-coded: for links above 500 Mbit/s."""
    codec = StagedCodec(Integer(4), FixedWidth(), transform=Hadamard())
    return CodecPair(codec, codec)


PRESETS: dict[str, Callable[[], CodecPair]] = {
    "none": none,
    "paper": paper,
    "paper-rans": paper_rans,
    "best": best,
    "fast": fast,
}


def codec_pair(name: str) -> CodecPair:
    """The codecs of both directions. Raises ConfigError: no preset of that name."""
    if name not in PRESETS:
        raise ConfigError(f"unknown codec {name!r}; {nearest(name, list(PRESETS))}")
    return PRESETS[name]()
