"""The sections with alternatives: the channel and its links, and the codec by its name and stage
by stage; each setting's meaning, bounds and default.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from cutlayer.config.section import (
    Choices,
    Decibels,
    Number,
    PluginSection,
    Real,
    Seconds,
    Section,
    Share,
    Text,
    Whole,
    read_by,
)

# The channel and the links on it.


class NoFading(Section):
    """The SNR is the same in every round."""

    name: Literal["none"] = "none"


class RayleighFading(Section):
    """Drawn each round, without a line of sight."""

    name: Literal["rayleigh"] = "rayleigh"


class RicianFading(Section):
    """Drawn each round, with a line of sight."""

    name: Literal["rician"] = "rician"
    k_db: Decibels = Field(
        default=10.0, description="Rician K factor: power of the line of sight over the rest [dB]"
    )


class GaussMarkovFading(Section):
    """Rayleigh or Rician, correlated over rounds."""

    name: Literal["gauss-markov"] = "gauss-markov"
    k_db: Decibels | None = Field(
        default=None,
        description="Rician K factor: power of the line of sight over the rest [dB]; null: no"
        " line of sight",
    )
    correlation: Real = Field(
        default=0.9, ge=0, lt=1, description="of one round's channel gain with the next's"
    )


FadingSection: TypeAlias = NoFading | RayleighFading | RicianFading | GaussMarkovFading


class NoCell(Section):
    """devices.uplink_snr_db and downlink_snr_db."""

    name: Literal["none"] = "none"


class _Cell(Section):
    name: str
    carrier_ghz: Real = Field(default=3.5, ge=0.5, le=100, description="carrier frequency [GHz]")
    nearest_m: Real = Field(
        default=20.0, ge=10, le=5000, description="least distance to the server [m]"
    )
    farthest_m: Real = Field(default=200.0, ge=10, le=5000, description="greatest distance [m]")
    device_power_dbm: Decibels = Field(default=23.0, description="transmit power of devices [dBm]")
    server_power_dbm: Decibels = Field(
        default=33.0, description="transmit power of the server [dBm]"
    )
    device_noise_db: Decibels = Field(default=9.0, ge=0, description="noise figure of devices [dB]")
    server_noise_db: Decibels = Field(
        default=5.0, ge=0, description="noise figure of the server [dB]"
    )


class UmiCell(_Cell):
    """Street canyon; path loss, line of sight and shadowing are drawn from the seed."""

    name: Literal["umi"] = "umi"


class UmaCell(_Cell):
    """Urban macro; path loss, line of sight and shadowing are drawn from the seed."""

    name: Literal["uma"] = "uma"


CellSection: TypeAlias = NoCell | UmiCell | UmaCell


class SnrSection(Section):
    """Shannon's rate at each device's SNR, over a bandwidth that all devices share."""

    name: Literal["snr"] = "snr"
    bandwidth_hz: Real = Field(
        default=5e6, ge=1, le=1e12, description="bandwidth in each direction [Hz]"
    )
    rate: Literal["constant-snr", "constant-power"] = Field(
        default="constant-snr",
        description="constant-snr (the paper's): the SNR does not depend on the bandwidth"
        " share; constant-power: it is that of the whole bandwidth, and higher for a"
        " smaller share",
    )
    fading: Annotated[FadingSection, Choices("none")] = Field(
        default=NoFading(), description="How a device's SNR varies from round to round."
    )
    cell: Annotated[CellSection, Choices("none")] = Field(
        default=NoCell(),
        description="Devices in a cell of 3GPP TR 38.901: SNR from distances instead of given"
        " ones.",
    )


class TracesSection(Section):
    """Measured rates instead of SNR, replayed."""

    name: Literal["traces"] = "traces"
    uplink: tuple[Text, ...] = Field(
        min_length=1,
        description="one file per device, or one for all; CSV of time_s,rate_bit_per_s, or"
        " Mahimahi's format",
    )
    downlink: tuple[Text, ...] = Field(
        default=(), description="the same for the downlink; none: as the uplink"
    )
    window_s: Seconds = Field(
        default=1.0, description="a round's rate is the trace's mean over so many seconds [s]"
    )


ChannelSection: TypeAlias = SnrSection | TracesSection | PluginSection


class LinkSection(Section):
    """How transfers share the channel."""

    uplink: Literal["static", "in-turn", "shared"] = Field(
        default="static",
        description="static: each device on its bandwidth share; in-turn: one transfer after"
        " another on the whole bandwidth; shared: time slots among the active"
        " transfers",
    )
    downlink: Literal["static", "in-turn", "shared"] = Field(
        default="static", description="the same for the downlink"
    )
    duplex: Literal["full", "half"] = Field(
        default="full", description="half: never both directions at once"
    )


# The codec, by its name and stage by stage.


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
    basis_share: Share | None = Field(
        default=None,
        description="fraction of the basis kept for activations; null: what is worth bits",
    )
    reference_rows: Whole = Field(
        default=0,
        ge=0,
        le=65536,
        description="activations of tokens that both ends remember and code differences to",
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


# The codec of adapter rows.


class NoAdapterCodec(Section):
    """float32, whole rows."""

    name: Literal["none"] = "none"


class Int8AdapterCodec(Section):
    """What changed, in 8 bits to the largest of each vector."""

    name: Literal["int8"] = "int8"


class BestAdapterCodec(Section):
    """What changed, in as few bits as are asked for; what is lost is sent later."""

    name: Literal["best"] = "best"
    target_bits_up: Real = Field(
        default=1.5, ge=0.05, le=8, description="bits per value of a device's change"
    )
    target_bits_down: Real = Field(
        default=4.0,
        ge=0.05,
        le=8,
        description="bits per value of a change that all devices hear, which is sent once",
    )


AdapterCodecSection: TypeAlias = NoAdapterCodec | Int8AdapterCodec | BestAdapterCodec
