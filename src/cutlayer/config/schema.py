"""Every setting of a run: its type, its bounds, its default, and what it means.

The defaults are the built-in job. `--help` prints the descriptions, `--print-config` the values.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cutlayer.config.link_section import LinkSection
from cutlayer.config.net_section import NetSection
from cutlayer.config.presets import device_values, server_values
from cutlayer.config.section import (
    MOST_DEVICES,
    DecibelsEach,
    MebibytesEach,
    Positive,
    Rate,
    RateEach,
    Real,
    Section,
    Share,
    ShareEach,
    Text,
    Whole,
    read_by,
    read_unless,
)
from cutlayer.spec import Task

_WHOLE = ("fl-lora", "fl-full")
_COMPRESSING = ("sft", "sft-overlap")
_BOTH_GRIDS = ("paper", "paper-rans")
_ARRANGED = ("static", "two-timescale")


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

    name: Text = Field(
        default="dinov2-small",
        min_length=1,
        description="a folder in Hugging Face form, a known name (dinov2-small, vit-l16, gpt2,"
        " llama-2-7b, ...) or a hub id",
    )
    cut: Annotated[Whole, read_unless("scheme.name", *_WHOLE)] = Field(
        default=4,
        ge=1,
        le=10_000,
        description="blocks on the devices, 1 to L-1; the server runs the other L - cut",
    )


class DataSection(Section):
    """The samples."""

    name: Text = Field(
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
        default=1600,
        ge=1,
        le=10**9,
        description="training samples drawn, over all devices; null: all",
    )
    test_samples: Whole | None = Field(
        default=500, ge=1, le=10**9, description="test samples drawn; null: all"
    )
    image_size: Whole = Field(
        default=56,
        ge=1,
        le=16_384,
        description="images are resized to this many pixels a side [px]",
    )
    max_tokens: Whole = Field(
        default=128, ge=2, le=2**20, description="texts are cut after this many tokens"
    )
    text_field: Text = Field(default="text", description="column of the text in tables")
    label_field: Text = Field(default="label", description="column of the label in tables")
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
    alpha: Annotated[Real, read_by("name", "dirichlet")] = Field(
        default=1.0,
        ge=1e-4,
        le=1e6,
        description="concentration of dirichlet; small is uneven (0.1), large is even (100)",
    )


class AdapterSection(Section):
    """What is trained."""

    rank: Whole = Field(
        default=8,
        ge=1,
        le=65_536,
        description="rank of every LoRA adapter, at most the width of the layers",
    )
    alpha: Real = Field(
        default=8.0, ge=1e-6, le=1e6, description="adapters are scaled by alpha / rank"
    )
    targets: Literal["all"] | tuple[Text, ...] = Field(
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
        default=5, ge=1, le=10**6, description="rounds; each ends with FedAvg of the adapters"
    )
    local_steps: Annotated[Whole | None, read_by("local_epochs", None)] = Field(
        default=10,
        ge=1,
        le=10**6,
        description="mini-batches a device trains on in a round; null: see local_epochs",
    )
    local_epochs: Whole | None = Field(
        default=None,
        ge=1,
        le=10**6,
        description="passes over its samples a device makes in a round instead",
    )
    batch_size: Whole = Field(
        default=16,
        ge=1,
        le=65_536,
        description="samples in a mini-batch; a device with fewer takes all it has",
    )
    micro_batches: Whole | None = Field(
        default=None,
        ge=1,
        le=65_536,
        description="parts that a mini-batch goes through in; null: 4 for sft-overlap, else 1",
    )
    in_flight: Annotated[Whole | None, read_by("scheme.name", "sft-overlap")] = Field(
        default=None,
        ge=1,
        le=65_536,
        description="micro-batches between forward and backward at most; null: all",
    )


class OptimizerSection(Section):
    """How adapters step, on both sides; each device keeps its own state."""

    name: Literal["adamw", "sgd"] = Field(
        default="adamw", description="adamw, or sgd (the paper's)"
    )
    learning_rate: Positive = Field(
        default=1e-3, le=1e12, description="learning rate of the first round"
    )
    decay: Real = Field(
        default=0.998,
        gt=0,
        le=1,
        description="the learning rate is multiplied by this after each round",
    )
    momentum: Annotated[Real, read_by("name", "sgd")] = Field(
        default=0.9, ge=0, lt=1, description="part of the last step that is made again"
    )
    weight_decay: Real = Field(
        default=0.0, ge=0, le=1e6, description="decoupled for adamw, L2 for sgd"
    )


class StagesSection(Section):
    """One direction's codec, stage by stage."""

    centre: bool = Field(default=False, description="subtract a learned mean per column")
    transform: Literal["none", "hadamard", "basis"] = Field(
        default="none", description="none, hadamard, or basis (learned and shipped)"
    )
    basis_share: Annotated[Share, read_by("transform", "basis")] = Field(
        default=1.0, description="part of the columns kept after the basis"
    )
    sparsify: Literal["none", "sample", "token", "batch"] = Field(
        default="none", description="Top-K within each sample, each token or the whole batch"
    )
    keep_ratio: Annotated[Share, read_by("sparsify", "sample", "token", "batch")] = Field(
        default=0.2, description="part of the values that Top-K keeps"
    )
    quantise: Literal["levels", "dead-zone", "int", "float8"] = Field(
        default="levels", description="levels (the paper's), dead-zone, int or float8"
    )
    levels: Annotated[Whole, read_by("quantise", "levels")] = Field(
        default=7, ge=1, le=255, description="intervals between smallest and largest kept"
    )
    bits: Annotated[Whole, read_by("quantise", "int")] = Field(
        default=8, ge=2, le=8, description="bits of a value"
    )
    rounding: Annotated[Real, read_by("quantise", "dead-zone")] = Field(
        default=0.35, gt=0, le=0.5, description="0.5 rounds to nearest"
    )
    step: Annotated[Positive | None, read_by("quantise", "dead-zone")] = Field(
        default=None, ge=1e-6, le=1e6, description="the step in units of the values' scale"
    )
    target_bits: Annotated[Positive | None, read_by("quantise", "dead-zone")] = Field(
        default=None, ge=0.001, le=16, description="bits per value that the step follows"
    )
    target_cosine: Annotated[Positive | None, read_by("quantise", "dead-zone")] = Field(
        default=None,
        ge=0.1,
        le=0.9999,
        description="cosine of sent and decoded that the step follows",
    )
    entropy: Literal["raw", "golomb", "two-way"] = Field(
        default="two-way", description="raw (fixed width), golomb or two-way"
    )
    memory: Literal["none", "error-feedback", "delta"] = Field(
        default="none", description="what is remembered of each sample: see docs/codec.md"
    )


class CodecSection(Section):
    """What activations and gradients are turned into on the link."""

    name: Literal["paper", "paper-rans", "best", "fast", "none", "stages"] = Field(
        default="best",
        description="paper; paper-rans (paper's values, in fewer bytes); best"
        " (learned basis); fast (4 bits); none (float32); stages (as up and down say)",
    )
    keep_ratio: Annotated[Share, read_by("name", *_BOTH_GRIDS)] = Field(
        default=0.5, description="part of the values kept of each sample (the paper's rho)"
    )
    levels: Annotated[Whole, read_by("name", *_BOTH_GRIDS)] = Field(
        default=31,
        ge=1,
        le=255,
        description="quantisation intervals between smallest and largest kept",
    )
    target_bits_up: Annotated[Real, read_by("name", "best"), read_by("target_cosine_up", None)] = (
        Field(default=0.7, ge=0.001, le=16, description="bits per value of activations")
    )
    target_bits_down: Annotated[
        Real, read_by("name", "best"), read_by("target_cosine_down", None)
    ] = Field(default=0.4, ge=0.001, le=16, description="bits per value of gradients")
    target_cosine_up: Annotated[Real | None, read_by("name", "best")] = Field(
        default=None,
        ge=0.1,
        le=0.9999,
        description="follow this cosine of activations, not bits",
    )
    target_cosine_down: Annotated[Real | None, read_by("name", "best")] = Field(
        default=None, ge=0.1, le=0.9999, description="follow this cosine of gradients, not bits"
    )
    basis_share: Annotated[Share, read_by("name", "best")] = Field(
        default=1 / 3, description="part of the basis kept for activations"
    )
    up: Annotated[StagesSection | None, read_by("name", "stages")] = Field(
        default=None, description="the stages of activations"
    )
    down: Annotated[StagesSection | None, read_by("name", "stages")] = Field(
        default=None, description="the stages of gradients; null: as up"
    )


class DevicesSection(Section):
    """The virtual devices. A list gives each its own value."""

    count: Whole = Field(
        default=8,
        ge=1,
        le=MOST_DEVICES,
        description="how many devices; with a list of presets as many as it has",
    )
    preset: Text | tuple[Text, ...] | None = Field(
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
    flops_per_s: RateEach = Field(
        default=1.024e12,
        description="compute rate [FLOP/s]; the default is 256 cores at 1 GHz, 4 FLOP a cycle",
    )
    flops_spread: Real = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="rates run evenly from 1 - spread to 1 + spread times that",
    )
    uplink_snr_db: Annotated[
        DecibelsEach, read_by("link.cell.name", "none"), read_by("link.traces", ())
    ] = Field(default=17.0, description="SNR, device to server [dB]")
    downlink_snr_db: Annotated[
        DecibelsEach, read_by("link.cell.name", "none"), read_by("link.traces", ())
    ] = Field(default=17.0, description="SNR, server to device [dB]")
    memory_mib: MebibytesEach | None = Field(
        default=72.0,
        description="memory for training [MiB]; a preset's is as sold, of which the system takes"
        " its part; a run that needs more stops; null: no limit",
    )
    activation_memory: Literal["keep", "checkpoint", "recompute"] = Field(
        default="keep",
        description="what devices keep until the gradient comes: all that"
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

    preset: Annotated[Text | None, read_unless("scheme.name", *_WHOLE)] = Field(
        default=None,
        description="a machine by name (rtx-4090): its peak rate for flops_per_s, unless given",
    )
    efficiency: Real = Field(
        default=1.0,
        gt=0,
        le=1,
        description="part of a preset's peak rate that training reaches; measure it",
    )
    flops_per_s: Annotated[Rate, read_unless("scheme.name", *_WHOLE)] = Field(
        default=3.072e12, description="compute rate [FLOP/s]; the default is 2048 cores at 1.5 GHz"
    )
    workers: Annotated[Whole, read_unless("scheme.name", *_WHOLE)] = Field(
        default=1, ge=1, le=10**6, description="mini-batches worked on at a time, each at that rate"
    )
    group: Whole = Field(
        default=8,
        ge=1,
        le=MOST_DEVICES,
        description="devices whose rows share one pass when simulating (speed only)",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, value: Any) -> Any:
        return server_values(value) | value if isinstance(value, dict) else value


class PlannerSection(Section):
    """Who allocates the bandwidth each round, and what `cutlayer plan` may choose."""

    name: Literal["even", "random", "static", "two-timescale"] = Field(
        default="even",
        description="bandwidth allocation: even (or link.shares); random (drawn each round); static"
        " (optimal for the mean channel); two-timescale (optimal anew for each round's channel)",
    )
    most_share: Annotated[ShareEach, read_by("name", *_ARRANGED)] = Field(
        default=1.0,
        description="largest part of the bandwidth that a device may have",
    )
    profile: Text | None = Field(
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
        default=1,
        ge=1,
        le=10_000,
        description="fewest blocks on devices, for the privacy of activations",
    )
    server_busy: Real = Field(
        default=1.0, gt=0, le=1, description="largest part of a round that the server may compute"
    )
    cuts: Literal["common", "per-device"] = Field(
        default="common", description="one cut for all devices, or one for each"
    )


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
    adapter: Annotated[AdapterSection, read_unless("scheme.name", "fl-full")] = AdapterSection()
    training: TrainingSection = TrainingSection()
    optimizer: OptimizerSection = OptimizerSection()
    codec: Annotated[CodecSection, read_by("scheme.name", *_COMPRESSING)] = CodecSection()
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
        le=1024,
        description="torch threads; null: torch's choice (same bytes need the same)",
    )
