"""The settings of the codec, by its name and stage by stage: meaning, bounds, defaults."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from cutlayer.config.section import (
    Choices,
    Number,
    PluginSection,
    Real,
    Section,
    Share,
    Whole,
    read_by,
)

_Cosine = Annotated[float, Field(allow_inf_nan=False, ge=0.1, le=0.9999), Number]


class NoTransform(Section):
    """Values as they are."""

    name: Literal["none"] = "none"


class HadamardTransform(Section):
    """Spreads each row's values evenly."""

    name: Literal["hadamard"] = "hadamard"


class BasisTransform(Section):
    """A basis that is learned and sent."""

    name: Literal["basis"] = "basis"
    share: Share = Field(default=1.0, description="fraction of the columns kept after the basis")


TransformSection: TypeAlias = NoTransform | HadamardTransform | BasisTransform


class NoTopK(Section):
    """All values are sent."""

    name: Literal["none"] = "none"


class _TopK(Section):
    name: str
    keep_ratio: Share = Field(default=0.2, description="fraction of the values that Top-K keeps")


class SampleTopK(_TopK):
    """Top-K within each sample."""

    name: Literal["sample"] = "sample"


class TokenTopK(_TopK):
    """Top-K within each token."""

    name: Literal["token"] = "token"


class BatchTopK(_TopK):
    """Top-K within the whole mini-batch."""

    name: Literal["batch"] = "batch"


SparsifySection: TypeAlias = NoTopK | SampleTopK | TokenTopK | BatchTopK


class LevelsQuantiser(Section):
    """The paper's stochastic quantisation."""

    name: Literal["levels"] = "levels"
    levels: Whole = Field(
        default=7, ge=1, le=255, description="intervals between smallest and largest kept"
    )


class DeadZoneQuantiser(Section):
    """Uniform quantisation with a dead zone; give one of step, target_bits, target_cosine."""

    name: Literal["dead-zone"] = "dead-zone"
    rounding: Real = Field(default=0.35, gt=0, le=0.5, description="0.5 rounds to nearest")
    step: Annotated[float, Field(allow_inf_nan=False, ge=1e-6, le=1e6), Number] | None = Field(
        default=None, description="the step in units of the values' scale"
    )
    target_bits: Annotated[float, Field(allow_inf_nan=False, ge=0.001, le=16), Number] | None = (
        Field(default=None, description="bits per value that the step follows")
    )
    target_cosine: _Cosine | None = Field(
        default=None,
        description="cosine of sent and decoded that the step follows",
    )


class IntegerQuantiser(Section):
    """Integers of this many bits, with a scale per row."""

    name: Literal["int"] = "int"
    bits: Whole = Field(default=8, ge=2, le=8, description="bits of a value")


class Float8Quantiser(Section):
    """Floats of eight bits."""

    name: Literal["float8"] = "float8"


QuantiseSection: TypeAlias = (
    LevelsQuantiser | DeadZoneQuantiser | IntegerQuantiser | Float8Quantiser
)


class StagesSection(Section):
    """One direction's codec, stage by stage."""

    centre: bool = Field(default=False, description="subtract a learned mean per column")
    transform: Annotated[TransformSection, Choices("none")] = Field(
        default=NoTransform(), description="What rows are turned into first."
    )
    sparsify: Annotated[SparsifySection, Choices("none")] = Field(
        default=NoTopK(), description="Which values are sent."
    )
    quantise: Annotated[QuantiseSection, Choices("levels")] = Field(
        default=LevelsQuantiser(), description="How values become small integers."
    )
    entropy: Literal["raw", "golomb", "two-way"] = Field(
        default="two-way", description="raw (fixed width), golomb or two-way"
    )
    memory: Literal["none", "error-feedback", "delta"] = Field(
        default="none", description="what is remembered of each sample: see docs/codec.md"
    )


class NoCodec(Section):
    """float32, every bit."""

    name: Literal["none"] = "none"


class _PaperGrid(Section):
    name: str
    keep_ratio: Share = Field(
        default=0.5, description="fraction of the values kept of each sample (the paper's rho)"
    )
    levels: Whole = Field(
        default=31,
        ge=1,
        le=255,
        description="quantisation intervals between smallest and largest kept",
    )


class PaperCodec(_PaperGrid):
    """As published: Top-K, stochastic quantisation, Golomb."""

    name: Literal["paper"] = "paper"


class PaperRansCodec(_PaperGrid):
    """The values of paper in fewer bytes."""

    name: Literal["paper-rans"] = "paper-rans"


class BestCodec(Section):
    """Learned basis, dead zone, contexts: the fewest bytes at a fidelity."""

    name: Literal["best"] = "best"
    target_bits_up: Annotated[Real, read_by("target_cosine_up", None)] = Field(
        default=0.7, ge=0.001, le=16, description="bits per value of activations"
    )
    target_bits_down: Annotated[Real, read_by("target_cosine_down", None)] = Field(
        default=0.4, ge=0.001, le=16, description="bits per value of gradients"
    )
    target_cosine_up: _Cosine | None = Field(
        default=None,
        description="follow this cosine of activations, not bits",
    )
    target_cosine_down: _Cosine | None = Field(
        default=None, description="follow this cosine of gradients, not bits"
    )
    basis_share: Share = Field(
        default=1 / 3, description="fraction of the basis kept for activations"
    )


class FastCodec(Section):
    """Hadamard and 4 bits, for fast links."""

    name: Literal["fast"] = "fast"


class StagesCodec(Section):
    """As given by up and down, stage by stage."""

    name: Literal["stages"] = "stages"
    up: StagesSection = Field(description="The stages of activations.")
    down: StagesSection | None = Field(
        default=None, description="the stages of gradients; null: as up"
    )


CodecSection: TypeAlias = (
    NoCodec | PaperCodec | PaperRansCodec | BestCodec | FastCodec | StagesCodec | PluginSection
)
