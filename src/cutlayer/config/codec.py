"""The codec section of a configuration made into a pair of codecs."""

from dataclasses import replace

from cutlayer.codec.codec import Codec
from cutlayer.codec.delta import Delta
from cutlayer.codec.entropy.coder import EntropyCoder
from cutlayer.codec.entropy.fixed_width import FixedWidth
from cutlayer.codec.entropy.golomb_coder import Golomb
from cutlayer.codec.entropy.two_way import TwoWay
from cutlayer.codec.feedback import ErrorFeedback
from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.codec.kernels.load import load
from cutlayer.codec.presets import CodecPair, best, fast, none, paper, paper_rans
from cutlayer.codec.staged import StagedCodec
from cutlayer.codec.stages.dead_zone import DeadZone
from cutlayer.codec.stages.float8 import Float8
from cutlayer.codec.stages.integer import Integer
from cutlayer.codec.stages.learned import LearnedBasis
from cutlayer.codec.stages.levels import StochasticLevels
from cutlayer.codec.stages.quantiser import Quantiser
from cutlayer.codec.stages.sparsify import TopK
from cutlayer.codec.stages.step import RelativeStep, StepRule, TargetBits, TargetCosine
from cutlayer.codec.stages.transform import Hadamard
from cutlayer.config.codec_section import (
    BasisTransform,
    BestCodec,
    CodecSection,
    DeadZoneQuantiser,
    FastCodec,
    Float8Quantiser,
    HadamardTransform,
    IntegerQuantiser,
    LevelsQuantiser,
    NoCodec,
    NoTopK,
    NoTransform,
    PaperCodec,
    PaperRansCodec,
    QuantiseSection,
    StagesCodec,
    StagesSection,
    TransformSection,
)
from cutlayer.errors import ConfigError


def make_codecs(section: CodecSection, packets: int, threads: int = 1) -> CodecPair:
    """The codecs of both directions, for streams of so many packets.

    Raises ConfigError for settings that exclude each other.
    """
    pair, kernels = _pair(section, packets), load(threads)
    return CodecPair(_on(pair.up, kernels), _on(pair.down, kernels))


def _pair(section: CodecSection, packets: int) -> CodecPair:
    match section:
        case NoCodec():
            return none()
        case PaperCodec():
            return paper(section.keep_ratio, section.levels)
        case PaperRansCodec():
            return paper_rans(section.keep_ratio, section.levels)
        case FastCodec():
            return fast()
        case BestCodec():
            up = _goal(section.target_bits_up, section.target_cosine_up)
            down = _goal(section.target_bits_down, section.target_cosine_down)
            return best(up, down, section.basis_share, packets)
        case StagesCodec():
            key, back = "codec.down", section.down
            if back is None:
                key, back = "codec.up", section.up
            return CodecPair(_staged("codec.up", section.up, packets), _staged(key, back, packets))


def _on(codec: Codec, kernels: Kernels) -> Codec:
    """The codec with these loops, on whose threads the bytes do not depend."""
    match codec:
        case StagedCodec():
            return replace(codec, kernels=kernels)
        case ErrorFeedback() | Delta():
            return replace(codec, inner=_on(codec.inner, kernels))
        case _:
            return codec


def _goal(bits: float, cosine: float | None) -> StepRule:
    return TargetBits(bits) if cosine is None else TargetCosine(cosine)


def _staged(key: str, section: StagesSection, packets: int) -> Codec:
    sparsify = section.sparsify
    codec = StagedCodec(
        _quantiser(key, section.quantise),
        _entropy(section),
        centre=section.centre,
        transform=_transform(section.transform, packets),
        sparsify=None if isinstance(sparsify, NoTopK) else TopK(sparsify.keep_ratio, sparsify.name),
    )
    match section.memory:
        case "none":
            return codec
        case "error-feedback":
            return ErrorFeedback(codec)
        case "delta":
            return Delta(codec)


def _quantiser(key: str, section: QuantiseSection) -> Quantiser:
    match section:
        case LevelsQuantiser():
            return StochasticLevels(section.levels)
        case DeadZoneQuantiser():
            return DeadZone(_rule(key, section), section.rounding)
        case IntegerQuantiser():
            return Integer(section.bits)
        case Float8Quantiser():
            return Float8()


def _rule(key: str, section: DeadZoneQuantiser) -> StepRule:
    rules: list[StepRule] = []
    if section.step is not None:
        rules.append(RelativeStep(section.step))
    if section.target_bits is not None:
        rules.append(TargetBits(section.target_bits))
    if section.target_cosine is not None:
        rules.append(TargetCosine(section.target_cosine))
    if len(rules) != 1:
        raise ConfigError(
            f"{key}: quantise dead-zone with {len(rules)} of step, target_bits, target_cosine: give"
            " one"
        )
    return rules[0]


def _transform(section: TransformSection, packets: int) -> Hadamard | LearnedBasis | None:
    match section:
        case NoTransform():
            return None
        case HadamardTransform():
            return Hadamard()
        case BasisTransform():
            return LearnedBasis(section.share, packets=packets)


def _entropy(section: StagesSection) -> EntropyCoder:
    match section.entropy:
        case "raw":
            return FixedWidth()
        case "golomb":
            return Golomb()
        case "two-way":
            return TwoWay()
