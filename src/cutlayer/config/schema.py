"""Every setting of a run: its type, its bounds, its default, and what it means.

The defaults are the built-in job. `--help` prints the descriptions, `--print-config` the values.
"""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cutlayer.config.net_section import NetSection
from cutlayer.config.presets import device_values, server_values
from cutlayer.config.section import (
    Finite,
    FiniteEach,
    Positive,
    PositiveEach,
    Real,
    Section,
    ShareEach,
    Whole,
)
from cutlayer.spec import Task


class SchemeSection(Section):
    """How devices and server train together."""

    name: Literal[
        "sft",
        "sft-uncompressed",
        "sft-overlap",
        "splitlora-paper",
        "splitlora",
        "sl",
        "fl-lora",
        "fl-full",
    ] = Field(
        default="sft",
        description="sft (the paper's); sft-uncompressed; sft-overlap (micro-batches in a"
        " pipeline); splitlora-paper (a server model per device); splitlora (as published: one,"
        " stepped in turn); sl (devices in turn); fl-lora, fl-full (whole model on devices)",
    )


class ModelSection(Section):
    """The pretrained model and where it is cut."""

    name: str = Field(
        default="dinov2-small",
        min_length=1,
        description="a folder in Hugging Face form, a known name (dinov2-small, vit-l16, gpt2,"
        " llama-2-7b, ...) or a hub id",
    )
    cut: Whole = Field(
        default=4, description="blocks on the devices, 1 to L-1; the server runs the other L - cut"
    )


class DataSection(Section):
    """The samples."""

    name: str = Field(
        default="fashion-mnist",
        min_length=1,
        description="a path (image folder, CIFAR-100 binary, Tiny-ImageNet, CSV, JSON lines, text"
        " files, saved `datasets`), a packaged set (`cutlayer assets list`) or a hub id",
    )
    task: Task | None = Field(
        default=None,
        description="image-classification, text-classification or causal-lm; null: as the data",
    )
    train_samples: Whole | None = Field(
        default=1600, ge=1, description="training samples drawn, over all devices; null: all"
    )
    test_samples: Whole | None = Field(
        default=500, ge=1, description="test samples drawn; null: all"
    )
    image_size: Whole = Field(
        default=56, ge=1, description="images are resized to this many pixels a side [px]"
    )
    max_tokens: Whole = Field(default=128, ge=2, description="texts are cut after this many tokens")
    text_field: str = Field(default="text", description="column of the text in tables")
    label_field: str = Field(default="label", description="column of the label in tables")
    test_fraction: Real = Field(
        default=0.2, gt=0, lt=1, description="part held out when the data have no test split"
    )
    on_bad_sample: Literal["stop", "skip"] = Field(
        default="stop",
        description="unreadable image, empty text, unknown label: stop before training and name"
        " them, or skip and count them",
    )


class PartitionSection(Section):
    """Which device holds which samples."""

    name: Literal["iid", "dirichlet"] = Field(
        default="dirichlet",
        description="iid: dealt at random; dirichlet: each class in uneven shares",
    )
    alpha: Positive = Field(
        default=1.0,
        description="concentration of dirichlet; small is uneven (0.1), large is even (100)",
    )


class AdapterSection(Section):
    """What is trained."""

    rank: Whole = Field(default=8, ge=1, description="rank of every LoRA adapter")
    alpha: Positive = Field(default=8.0, description="adapters are scaled by alpha / rank")
    targets: Literal["all"] | tuple[str, ...] = Field(
        default="all",
        description="linear layers adapted in each block: all, or a list of their names",
    )
    patch_embedding: bool = Field(
        default=False, description="an adapter on the patch embedding too (vision models)"
    )
    head: bool | None = Field(
        default=None, description="train the classification head; null: yes where there is one"
    )


class TrainingSection(Section):
    """How long, and in what portions."""

    rounds: Whole = Field(
        default=5, ge=1, description="rounds; each ends with FedAvg of the adapters"
    )
    local_steps: Whole | None = Field(
        default=10,
        ge=1,
        description="mini-batches a device trains on in a round; null: see local_epochs",
    )
    local_epochs: Whole | None = Field(
        default=None, ge=1, description="passes over its samples a device makes in a round instead"
    )
    batch_size: Whole = Field(default=16, ge=1, description="samples in a mini-batch")
    micro_batches: Whole | None = Field(
        default=None,
        ge=1,
        description="parts that a mini-batch goes through in; null: 4 for sft-overlap, else 1",
    )
    in_flight: Whole | None = Field(
        default=None,
        ge=1,
        description="sft-overlap: micro-batches between forward and backward at most; null: all",
    )


class OptimizerSection(Section):
    """How adapters step, on both sides; each device keeps its own state."""

    name: Literal["adamw", "sgd"] = Field(
        default="adamw", description="adamw, or sgd (the paper's)"
    )
    learning_rate: Positive = Field(default=1e-3, description="learning rate of the first round")
    decay: Real = Field(
        default=0.998,
        gt=0,
        le=1,
        description="the learning rate is multiplied by this after each round",
    )
    momentum: Real = Field(default=0.9, ge=0, lt=1, description="momentum of sgd")
    weight_decay: Real = Field(default=0.0, ge=0, description="decoupled for adamw, L2 for sgd")


class StagesSection(Section):
    """One direction's codec, stage by stage."""

    centre: bool = Field(default=False, description="subtract a learned mean per column")
    transform: Literal["none", "hadamard", "basis"] = Field(
        default="none", description="none, hadamard, or basis (learned and shipped)"
    )
    basis_share: Real = Field(
        default=1.0, gt=0, le=1, description="part of the columns kept after the basis"
    )
    sparsify: Literal["none", "sample", "token", "batch"] = Field(
        default="none", description="Top-K within each sample, each token or the whole batch"
    )
    keep_ratio: Real = Field(default=0.2, gt=0, le=1, description="values that Top-K keeps")
    quantise: Literal["levels", "dead-zone", "int", "float8"] = Field(
        default="levels", description="levels (the paper's), dead-zone, int or float8"
    )
    levels: Whole = Field(default=7, ge=1, le=255, description="intervals of levels")
    bits: Whole = Field(default=8, ge=2, le=8, description="bits of int")
    rounding: Real = Field(
        default=0.35, gt=0, le=0.5, description="dead-zone: 0.5 rounds to nearest"
    )
    step: Positive | None = Field(
        default=None, description="dead-zone: the step in units of the values' scale"
    )
    target_bits: Positive | None = Field(
        default=None, description="dead-zone: bits per value that the step follows"
    )
    target_cosine: Positive | None = Field(
        default=None, description="dead-zone: cosine of sent and decoded that the step follows"
    )
    entropy: Literal["raw", "golomb", "two-way"] = Field(
        default="two-way", description="raw (fixed width), golomb or two-way"
    )
    memory: Literal["none", "error-feedback", "delta"] = Field(
        default="none", description="what is remembered of each sample: see docs/codec.md"
    )


class CodecSection(Section):
    """What activations and gradients are turned into on the link."""

    name: Literal["paper", "lossless-plus", "best", "fast", "none", "stages"] = Field(
        default="best",
        description="paper; lossless-plus (lossy as paper: its values, in fewer bytes); best"
        " (learned basis); fast (4 bits); none (float32); stages (as up and down say)",
    )
    keep_ratio: Real = Field(
        default=0.5,
        gt=0,
        le=1,
        description="paper and lossless-plus: values kept of each sample (the paper's rho)",
    )
    levels: Whole = Field(
        default=31,
        ge=1,
        le=255,
        description="paper and lossless-plus: quantisation intervals between smallest and largest"
        " kept",
    )
    target_bits_up: Positive = Field(default=0.7, description="best: bits per value of activations")
    target_bits_down: Positive = Field(default=0.4, description="best: bits per value of gradients")
    target_cosine_up: Positive | None = Field(
        default=None, description="best: follow this cosine of activations, not bits"
    )
    target_cosine_down: Positive | None = Field(
        default=None, description="best: follow this cosine of gradients, not bits"
    )
    basis_share: Real = Field(
        default=1 / 3, gt=0, le=1, description="best: part of the basis kept for activations"
    )
    up: StagesSection | None = Field(default=None, description="stages: those of activations")
    down: StagesSection | None = Field(
        default=None, description="stages: those of gradients; null: as up"
    )


class DevicesSection(Section):
    """The virtual devices. A list gives each its own value."""

    count: Whole = Field(
        default=8, ge=1, description="how many devices; with a list of presets as many as it has"
    )
    preset: str | tuple[str, ...] | None = Field(
        default=None,
        description="a device by name (jetson-nano), or a list of names, one a device: its peak"
        " rate for flops_per_s, 0 for flops_spread and its memory as sold for memory_mib; what is"
        " given beside it wins",
    )
    efficiency: Real = Field(
        default=1.0,
        gt=0,
        le=1,
        description="part of a preset's peak rate that training reaches; measure it, 1 is never"
        " met",
    )
    flops_per_s: PositiveEach = Field(
        default=1.024e12,
        description="compute rate [FLOP/s]; the default is 256 cores at 1 GHz, 4 FLOP a cycle",
    )
    flops_spread: Real = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="rates run evenly from 1 - spread to 1 + spread times that",
    )
    uplink_snr_db: FiniteEach = Field(default=17.0, description="SNR, device to server [dB]")
    downlink_snr_db: FiniteEach = Field(default=17.0, description="SNR, server to device [dB]")
    memory_mib: PositiveEach | None = Field(
        default=72.0,
        description="memory for training [MiB]; a preset's is as sold, of which the system takes"
        " its part; a run that needs more stops; null: no limit",
    )
    holding: Literal["keep", "checkpoint", "recompute"] = Field(
        default="keep",
        description="activation memory: what devices keep until the gradient comes: all that"
        " backward needs, the blocks' inputs (checkpoint), or the mini-batch's input (recompute)",
    )
    base: Literal["float32", "bfloat16"] = Field(
        default="float32", description="numbers of the frozen weights on devices"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, value: Any) -> Any:
        return device_values(value) | value if isinstance(value, dict) else value


class ServerSection(Section):
    """The edge server."""

    preset: str | None = Field(
        default=None,
        description="a machine by name (rtx-4090): its peak rate for flops_per_s, unless given",
    )
    efficiency: Real = Field(
        default=1.0,
        gt=0,
        le=1,
        description="part of a preset's peak rate that training reaches; measure it",
    )
    flops_per_s: Positive = Field(
        default=3.072e12, description="compute rate [FLOP/s]; the default is 2048 cores at 1.5 GHz"
    )
    workers: Whole = Field(
        default=1, ge=1, description="mini-batches worked on at a time, each at that rate"
    )
    group: Whole = Field(
        default=8,
        ge=1,
        description="devices whose rows share one pass when simulating (speed only)",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, value: Any) -> Any:
        return server_values(value) | value if isinstance(value, dict) else value


class FadingSection(Section):
    """How a device's SNR varies from round to round."""

    name: Literal["none", "rayleigh", "rician", "gauss-markov"] = Field(
        default="none",
        description="none; rayleigh; rician; gauss-markov (rayleigh or rician with memory)",
    )
    k_db: Finite | None = Field(
        default=None,
        description="rician, gauss-markov: power of the direct path over the rest [dB]; null: 10"
        " for rician, no direct path for gauss-markov",
    )
    correlation: Real = Field(
        default=0.9, ge=0, lt=1, description="gauss-markov: of one round's gain with the next's"
    )


class CellSection(Section):
    """Devices in a cell of 3GPP TR 38.901: SNR from distances instead of given ones."""

    name: Literal["none", "umi", "uma"] = Field(
        default="none",
        description="none: devices.uplink_snr_db and downlink_snr_db; umi: street canyon; uma:"
        " urban macro; path loss, line of sight and shadowing are drawn from the seed",
    )
    carrier_ghz: Positive = Field(default=3.5, description="carrier frequency [GHz]")
    nearest_m: Real = Field(default=20.0, ge=0, description="least distance to the server [m]")
    farthest_m: Positive = Field(default=200.0, description="greatest distance [m]")
    device_power_dbm: Finite = Field(default=23.0, description="transmit power of devices [dBm]")
    server_power_dbm: Finite = Field(default=33.0, description="transmit power of the server [dBm]")
    device_noise_db: Finite = Field(default=9.0, description="noise figure of devices [dB]")
    server_noise_db: Finite = Field(default=5.0, description="noise figure of the server [dB]")


class LinkSection(Section):
    """The bandwidth that all devices share."""

    bandwidth_hz: Positive = Field(default=5e6, description="bandwidth, the same both ways [Hz]")
    shares: Literal["even"] | tuple[Positive, ...] = Field(
        default="even",
        description="bandwidth allocation: even, or a list that sums to 1 at most",
    )
    rate: Literal["constant-snr", "constant-power"] = Field(
        default="constant-snr",
        description="constant-snr (the paper's): the SNR is the same for any share;"
        " constant-power: it is that of the whole bandwidth, and better for a smaller share",
    )
    fading: FadingSection = FadingSection()
    cell: CellSection = CellSection()
    traces: tuple[str, ...] = Field(
        default=(),
        description="measured rates instead of SNR: a file a device, or one for all; CSV of"
        " time_s,rate_bit_per_s, or Mahimahi's format",
    )
    downlink_traces: tuple[str, ...] = Field(
        default=(), description="the same for the downlink; none: as the uplink"
    )
    trace_window_s: Positive = Field(
        default=1.0, description="a round's rate is the trace's mean over so many seconds [s]"
    )
    uplink: Literal["static", "in-turn", "shared"] = Field(
        default="static",
        description="static: each on its share; in-turn: the whole bandwidth for one transfer after"
        " another; shared: time slots among those under way",
    )
    downlink: Literal["static", "in-turn", "shared"] = Field(
        default="static", description="the same for the downlink"
    )
    duplex: Literal["full", "half"] = Field(
        default="full", description="half: never both ways at once"
    )


class PlannerSection(Section):
    """Who allocates the bandwidth each round, and what `cutlayer plan` may choose."""

    name: Literal["even", "random", "static", "two-timescale"] = Field(
        default="even",
        description="bandwidth allocation: even (or link.shares); random (drawn each round); static"
        " (optimal for the mean channel); two-timescale (optimal anew for each round's channel)",
    )
    most_share: ShareEach = Field(
        default=1.0,
        description="static, two-timescale: largest part of the bandwidth that a device may have",
    )
    profile: str | None = Field(
        default=None,
        description="measured accuracies, a file of `cutlayer profile`; null: the packaged one of"
        " this model and data",
    )
    accuracy_loss: Real = Field(
        default=0.02,
        ge=0,
        lt=1,
        description="accuracy that the codec may cost (0.02 is two points)",
    )
    least_cut: Whole = Field(
        default=1, ge=1, description="fewest blocks on devices, for the privacy of activations"
    )
    server_busy: Real = Field(
        default=1.0, gt=0, le=1, description="largest part of a round that the server may compute"
    )
    cuts: Literal["common", "per-device"] = Field(
        default="common", description="one cut for all devices, or one for each"
    )

    @field_validator("name", mode="before")
    @classmethod
    def _hyphens(cls, value: Any) -> Any:
        return value.replace("_", "-") if isinstance(value, str) else value


class CostSection(Section):
    """How FLOPs are counted."""

    accounting: Literal["physical", "paper"] = Field(
        default="physical",
        description="physical: what is computed; paper: its formulas as published",
    )


class Config(Section):
    """A run."""

    scheme: SchemeSection = SchemeSection()
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    partition: PartitionSection = PartitionSection()
    adapter: AdapterSection = AdapterSection()
    training: TrainingSection = TrainingSection()
    optimizer: OptimizerSection = OptimizerSection()
    codec: CodecSection = CodecSection()
    devices: DevicesSection = DevicesSection()
    server: ServerSection = ServerSection()
    link: LinkSection = LinkSection()
    cost: CostSection = CostSection()
    planner: PlannerSection = PlannerSection()
    net: NetSection = NetSection()
    seed: Whole = Field(
        default=0, ge=0, le=2**31 - 1, description="every random draw follows from it"
    )
    threads: Whole | None = Field(
        default=None,
        ge=1,
        description="torch threads; null: torch's choice (same bytes need the same)",
    )
