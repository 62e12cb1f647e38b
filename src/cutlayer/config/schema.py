"""Every setting of a run: its type, its bounds, its default, and what it means.

The defaults are the built-in job. `--help` prints the descriptions, `--print-config` the values.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator

from cutlayer.config.channel import ChannelSection, LinkSection, SnrSection
from cutlayer.config.codec import BestCodec, CodecSection
from cutlayer.config.hardware import device_values, server_values
from cutlayer.config.mistakes import explain
from cutlayer.config.section import (
    AGGREGATIONS,
    ALLOCATIONS,
    CHANNELS,
    CODECS,
    MOST_DEVICES,
    PARTITIONS,
    SCHEMES,
    BitRate,
    Choices,
    DecibelsEach,
    MebibytesEach,
    Number,
    PluginSection,
    Positive,
    Rate,
    RateEach,
    Real,
    Seconds,
    Section,
    Share,
    ShareEach,
    Text,
    Whole,
    read_by,
    read_unless,
)
from cutlayer.errors import ConfigError
from cutlayer.spec import Task

_WHOLE = ("fl-lora", "fl-full")
_COMPRESSING = ("sft", "sft-overlap")
_Samples = Annotated[int, Field(ge=1, le=10**9), Number]
_Steps = Annotated[int, Field(ge=1, le=10**6), Number]
_MicroBatches = Annotated[int, Field(ge=1, le=65_536), Number]
_ARRANGED = ("static", "two-timescale")


class Sft(Section):
    """The paper's: split, compressed, all devices at once."""

    name: Literal["sft"] = "sft"


class SftUncompressed(Section):
    """sft with float32 on the link."""

    name: Literal["sft-uncompressed"] = "sft-uncompressed"


class SftOverlap(Section):
    """sft with micro-batches in a pipeline."""

    name: Literal["sft-overlap"] = "sft-overlap"


class SplitLoraPaper(Section):
    """A server model per device."""

    name: Literal["splitlora-paper"] = "splitlora-paper"


class SplitLora(Section):
    """As published: one server model, stepped for a device after another."""

    name: Literal["splitlora"] = "splitlora"


class Sl(Section):
    """Split learning: devices in turn."""

    name: Literal["sl"] = "sl"


class FlLora(Section):
    """Federated: the whole model on devices, adapters trained."""

    name: Literal["fl-lora"] = "fl-lora"


class FlFull(Section):
    """Federated: the whole model on devices, all of it trained."""

    name: Literal["fl-full"] = "fl-full"


SchemeSection: TypeAlias = (
    Sft
    | SftUncompressed
    | SftOverlap
    | SplitLoraPaper
    | SplitLora
    | Sl
    | FlLora
    | FlFull
    | PluginSection
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
    train_samples: _Samples | None = Field(
        default=1600,
        description="training samples drawn, over all devices; null: all",
    )
    test_samples: _Samples | None = Field(default=500, description="test samples drawn; null: all")
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


class IidPartition(Section):
    """Samples are dealt at random."""

    name: Literal["iid"] = "iid"


class DirichletPartition(Section):
    """Each class is dealt in uneven shares."""

    name: Literal["dirichlet"] = "dirichlet"
    alpha: Real = Field(
        default=1.0,
        ge=1e-4,
        le=1e6,
        description="concentration; small is uneven (0.1), large is even (100)",
    )


PartitionSection: TypeAlias = IidPartition | DirichletPartition | PluginSection


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
        default=5, ge=1, le=10**6, description="rounds; each ends with the adapters merged into one"
    )
    local_steps: Annotated[_Steps | None, read_by("local_epochs", None)] = Field(
        default=10,
        description="mini-batches a device trains on in a round; null: see local_epochs",
    )
    local_epochs: _Steps | None = Field(
        default=None,
        description="passes over its samples a device makes in a round instead",
    )
    batch_size: Whole = Field(
        default=16,
        ge=1,
        le=65_536,
        description="samples in a mini-batch; a device with fewer takes all it has",
    )
    micro_batches: _MicroBatches | None = Field(
        default=None,
        description="parts that a mini-batch goes through in; null: 4 for sft-overlap, else 1",
    )
    in_flight: Annotated[_MicroBatches | None, read_by("scheme.name", "sft-overlap")] = Field(
        default=None,
        description="micro-batches between forward and backward at most; null: all",
    )


class _Optimizer(Section):
    name: str
    learning_rate: Positive = Field(
        default=1e-3, le=1e12, description="learning rate of the first round"
    )
    decay: Real = Field(
        default=0.998,
        gt=0,
        le=1,
        description="the learning rate is multiplied by this after each round",
    )


class AdamWOptimizer(_Optimizer):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = "adamw"
    weight_decay: Real = Field(default=0.0, ge=0, le=1e6, description="decoupled weight decay")


class SgdOptimizer(_Optimizer):
    """Stochastic gradient descent with momentum, the paper's."""

    name: Literal["sgd"] = "sgd"
    momentum: Real = Field(
        default=0.9, ge=0, lt=1, description="part of the last step that is made again"
    )
    weight_decay: Real = Field(default=0.0, ge=0, le=1e6, description="L2 weight decay")


OptimizerSection: TypeAlias = AdamWOptimizer | SgdOptimizer


class FedAvgAggregation(Section):
    """The mean, weighted by samples."""

    name: Literal["fedavg"] = "fedavg"


AggregationSection: TypeAlias = FedAvgAggregation | PluginSection


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
        DecibelsEach, read_by("channel.name", "snr"), read_by("channel.cell.name", "none")
    ] = Field(default=17.0, description="SNR, device to server [dB]")
    downlink_snr_db: Annotated[
        DecibelsEach, read_by("channel.name", "snr"), read_by("channel.cell.name", "none")
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


class _Planner(Section):
    name: str
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


class EvenPlanner(_Planner):
    """All devices have the same share of the bandwidth."""

    name: Literal["even"] = "even"


class FixedPlanner(_Planner):
    """Each device has its given share of the bandwidth."""

    name: Literal["fixed"] = "fixed"
    shares: tuple[Share, ...] = Field(
        min_length=1, description="a share a device, which sum to 1 at most"
    )


class RandomPlanner(_Planner):
    """Shares are drawn anew each round."""

    name: Literal["random"] = "random"


class StaticPlanner(_Planner):
    """Shares that are optimal for the mean channel."""

    name: Literal["static"] = "static"


class TwoTimescalePlanner(_Planner):
    """Shares that are optimal for each round's channel."""

    name: Literal["two-timescale"] = "two-timescale"


class PluginPlanner(PluginSection, _Planner):
    """What an installed package has, called with the options."""


PlannerSection: TypeAlias = (
    EvenPlanner | FixedPlanner | RandomPlanner | StaticPlanner | TwoTimescalePlanner | PluginPlanner
)


class CostSection(Section):
    """How FLOPs are counted."""

    accounting: Literal["physical", "paper"] = Field(
        default="physical",
        description="physical: what is computed; paper: its formulas as published",
    )


class NetSection(Section):
    """`cutlayer serve`: devices that are real, over a network."""

    devices: tuple[Text, ...] = Field(
        default=(),
        description="names of the devices in their order, which decides what each draws from the"
        " seed; empty: numbered as they first come",
    )
    quorum: Annotated[int, Field(ge=1, le=MOST_DEVICES), Number] | None = Field(
        default=None,
        description="devices that a round needs at its deadline; null: all",
    )
    deadline_s: Seconds | None = Field(
        default=None,
        description="a round closes after this long with the devices that made it [s]; null: with"
        " all of them, whenever that is",
    )
    give_up_s: Seconds | None = Field(
        default=None,
        description="a round that is open for so long and has too few adapters to close ends the"
        " run, to be resumed [s]; null: it waits, since nothing is lost by waiting",
    )
    uplink_bit_s: BitRate | None = Field(
        default=None,
        description="rate that the devices share on the way to the server [bit/s]; each keeps to"
        " its share; null: as fast as the line is",
    )
    downlink_bit_s: BitRate | None = Field(
        default=None, description="the same for the way back, kept by the server"
    )
    patience_s: Seconds = Field(
        default=60.0, description="a device that takes longer to read a frame is hung up on [s]"
    )
    farewell_s: Real = Field(
        default=60.0,
        ge=0,
        le=1e9,
        description="how long a server whose run has ended waits to tell devices that are away [s]",
    )
    connections: Whole = Field(
        default=280,
        ge=1,
        le=MOST_DEVICES,
        description="connections at a time, in all; three files each",
    )


class Config(Section):
    """A run: `Config(codec={"name": "best"}, training={"rounds": 3})`, or from a file by
    `read_config`. Raises ConfigError, which names the key and what it should be."""

    scheme: Annotated[SchemeSection, Choices("sft", SCHEMES)] = Field(
        default=Sft(), description="How devices and server train together."
    )
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    partition: Annotated[PartitionSection, Choices("dirichlet", PARTITIONS)] = Field(
        default=DirichletPartition(), description="Which device holds which samples."
    )
    adapter: Annotated[AdapterSection, read_unless("scheme.name", "fl-full")] = AdapterSection()
    training: TrainingSection = TrainingSection()
    optimizer: Annotated[OptimizerSection, Choices("adamw")] = Field(
        default=AdamWOptimizer(),
        description="How adapters step, on both sides; each device keeps its own state.",
    )
    aggregation: Annotated[
        AggregationSection, Choices("fedavg", AGGREGATIONS), read_unless("scheme.name", "sl")
    ] = Field(
        default=FedAvgAggregation(),
        description="How the server makes one adapter of the devices' as a round ends.",
    )
    codec: Annotated[
        CodecSection, Choices("best", CODECS), read_by("scheme.name", *_COMPRESSING)
    ] = Field(
        default=BestCodec(),
        description="What activations and gradients are turned into on the link.",
    )
    devices: DevicesSection = DevicesSection()
    server: ServerSection = ServerSection()
    channel: Annotated[ChannelSection, Choices("snr", CHANNELS)] = Field(
        default=SnrSection(), description="Each device's rates in every round."
    )
    link: LinkSection = LinkSection()
    cost: CostSection = CostSection()
    planner: Annotated[PlannerSection, Choices("even", ALLOCATIONS)] = Field(
        default=EvenPlanner(),
        description="Who allocates the bandwidth each round, and what `cutlayer plan` may choose.",
    )
    net: NetSection = NetSection()
    seed: Whole = Field(
        default=0, ge=0, le=2**31 - 1, description="every random draw follows from it"
    )
    threads: Annotated[int, Field(ge=1, le=1024), Number] | None = Field(
        default=None,
        description="torch threads; null: torch's choice (same bytes need the same)",
    )

    if TYPE_CHECKING:  # a section may be a mapping or a name, which a type checker cannot know

        def __init__(self, **sections: Any) -> None: ...

    @model_validator(mode="wrap")
    @classmethod
    def _or_say_what_is_wrong(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            raise ConfigError(explain(cls, error)) from error
