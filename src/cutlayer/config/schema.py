"""Every setting of a run: its type, its bounds, its default, and what it means.

The defaults are the default job. `--help` prints the descriptions, `--print-config` the values.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field

from cutlayer.config.choices import (
    AdapterCodecSection,
    BestCodec,
    ChannelSection,
    CodecSection,
    LinkSection,
    NoAdapterCodec,
    SnrSection,
)
from cutlayer.config.machines import WHOLE, DevicesSection, ServerSection
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
    Mebibytes,
    Number,
    PluginSection,
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
from cutlayer.config.training import (
    AdamWOptimizer,
    AdapterSection,
    EngineSection,
    EvaluationSection,
    LocalEngine,
    OptimizerSection,
    TrainingSection,
)
from cutlayer.errors import ConfigError, shown
from cutlayer.spec import LossOn, Packing, Task, TextFormat, TooLong

_COMPRESSING = ("auto", "sft", "sft-overlap", "sft-frozen", "sft-cached")
_Samples = Annotated[int, Field(ge=1, le=10**9), Number]
_ARRANGED = ("static", "two-timescale")
# what a plan chooses
Choice = Literal[
    "scheme", "cut", "codec", "activation_memory", "micro_batches", "downlink", "shares"
]


class AutoScheme(Section):
    """sft-frozen where a profile of model and data says that training the devices' part brings no
    more than planner.accuracy_loss at this cut, else sft."""

    name: Literal["auto"] = "auto"


class Sft(Section):
    """The paper's: split, compressed, devices in parallel."""

    name: Literal["sft"] = "sft"


class SftUncompressed(Section):
    """sft with float32 on the link."""

    name: Literal["sft-uncompressed"] = "sft-uncompressed"


class SftOverlap(Section):
    """sft with micro-batches in a pipeline."""

    name: Literal["sft-overlap"] = "sft-overlap"


class SftFrozen(Section):
    """sft with the devices' part frozen: nothing comes back, the server trains alone."""

    name: Literal["sft-frozen"] = "sft-frozen"


class SftCached(Section):
    """sft-frozen, and each sample's activations are sent once: the server keeps them, coded."""

    name: Literal["sft-cached"] = "sft-cached"


class SplitLoraPaper(Section):
    """As the SFT paper describes it: a server model per device."""

    name: Literal["splitlora-paper"] = "splitlora-paper"


class SplitLora(Section):
    """As published: one server model, updated for one device after another."""

    name: Literal["splitlora"] = "splitlora"


class Sl(Section):
    """Split learning: devices in turn."""

    name: Literal["sl"] = "sl"


class FlLora(Section):
    """Federated learning: the whole model on devices, adapters trained."""

    name: Literal["fl-lora"] = "fl-lora"


class FlFull(Section):
    """Federated learning: the whole model on devices, all weights trained."""

    name: Literal["fl-full"] = "fl-full"


SchemeSection: TypeAlias = (
    AutoScheme
    | Sft
    | SftUncompressed
    | SftOverlap
    | SftFrozen
    | SftCached
    | SplitLoraPaper
    | SplitLora
    | Sl
    | FlLora
    | FlFull
    | PluginSection
)


class CacheSection(Section):
    """The server's cache of coded activations, in the run's directory."""

    limit_mib: Mebibytes = Field(
        default=1024.0,
        description="what the cache holds on disk as a round ends [MiB]; what is held stays, and"
        " samples beyond it are sent again in each epoch",
    )
    memory_mib: Mebibytes = Field(
        default=256.0,
        description="server memory for activations that were decoded last [MiB], so that a packet"
        " is not decoded for each of its samples",
    )


class TrainedDevicePart(Section):
    """In every round."""

    name: Literal["trained"] = "trained"


class FrozenDevicePart(Section):
    """Never: sft-frozen."""

    name: Literal["frozen"] = "frozen"


class WarmDevicePart(Section):
    """In the first rounds; then it is frozen as it was merged."""

    name: Literal["warm"] = "warm"
    rounds: Whole = Field(
        default=1, ge=1, le=10**6, description="rounds in which the devices' part is trained"
    )


DevicePartSection: TypeAlias = TrainedDevicePart | FrozenDevicePart | WarmDevicePart


class ModelSection(Section):
    """The pretrained model and its cut layer."""

    name: Text = Field(
        default="dinov2-small",
        min_length=1,
        description="a folder in Hugging Face form, a known name (dinov2-small, vit-l16, gpt2,"
        " llama-2-7b, ...) or a hub id",
    )
    cut: Annotated[Whole, read_unless("scheme.name", *WHOLE)] = Field(
        default=4,
        ge=1,
        le=10_000,
        description="blocks on the devices, 1 to L-1; the server runs the other L - cut",
    )


class DataSection(Section):
    """The data set."""

    name: Text = Field(
        default="fashion-mnist",
        min_length=1,
        description="a path (image folder, CIFAR-100 binary, Tiny-ImageNet, texts or conversations"
        " in CSV, JSON or Parquet, text files, saved `datasets`), a packaged set (`cutlayer assets"
        " list`) or a hub id",
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
        default=128, ge=2, le=2**20, description="texts are truncated to this many tokens"
    )
    format: Literal["auto"] | TextFormat = Field(
        default="auto",
        description="how a table's rows are examples for a language model: text, messages,"
        " prompt-completion, alpaca or sharegpt; auto: by its columns, where one format fits",
    )
    chat_template: Text | None = Field(
        default=None,
        min_length=1,
        description="what makes a conversation's text: a Jinja file, or its text; null: the"
        " tokenizer's own",
    )
    loss_on: LossOn | None = Field(
        default=None,
        description="tokens that count: of the assistant's turns, of the completion, or all; null:"
        " all of texts, the completion after a prompt, the assistant's turns of conversations",
    )
    packing: Packing | None = Field(
        default=None,
        description="rows of a language model: blocks (joined and cut), documents (several a row,"
        " which do not see each other) or none (one a row); null: blocks for texts, else none",
    )
    too_long: TooLong = Field(
        default="right",
        description="samples of a language model beyond max_tokens, unless cut into blocks: cut at"
        " the right or the left, drop them, or stop",
    )
    text_field: Text = Field(default="text", description="column of the text in tables")
    label_field: Text = Field(default="label", description="column of the label in tables")
    test_fraction: Real = Field(
        default=0.2, gt=0, lt=1, description="fraction held out when the data have no test split"
    )
    on_bad_sample: Literal["stop", "skip"] = Field(
        default="stop",
        description="unreadable image, empty text, unknown label: stop before training and name"
        " them, or skip and count them",
    )

    def check_task(self, task: Task) -> None:
        """Raises ConfigError for settings of a language model's rows where another task is
        trained."""
        for name in ("chat_template", "loss_on", "packing", "too_long"):
            given = getattr(self, name)
            if task != "causal-lm" and given != type(self).model_fields[name].default:
                raise ConfigError(
                    f"data.{name} {shown(given)} is not read for {task}, but for causal-lm: leave"
                    " it out, or set data.task to causal-lm"
                )


class IidPartition(Section):
    """IID: samples are assigned at random."""

    name: Literal["iid"] = "iid"


class DirichletPartition(Section):
    """Non-IID: each class in uneven proportions."""

    name: Literal["dirichlet"] = "dirichlet"
    alpha: Real = Field(
        default=1.0,
        ge=1e-4,
        le=1e6,
        description="concentration; small is uneven (0.1), large is even (100)",
    )


class ColumnPartition(Section):
    """Non-IID: samples of one value of a column are on one device."""

    name: Literal["column"] = "column"
    column: Text = Field(
        min_length=1, description="the column of the table that says whose a sample is"
    )


PartitionSection: TypeAlias = IidPartition | DirichletPartition | ColumnPartition | PluginSection


class AveragingSection(Section):
    """What has a mean of adapters."""

    name: str
    merge: Literal["zero-padding", "product"] = Field(
        default="zero-padding",
        description="of which values the mean is. zero-padding: of A and of B, each by itself, of"
        " lower ranks with zeros; product: of the products B A, which the singular value"
        " decomposition makes an adapter again",
    )


class FedAvgAggregation(AveragingSection):
    """The mean, weighted by samples."""

    name: Literal["fedavg"] = "fedavg"


class FedProxAggregation(AveragingSection):
    """FedAvg, and local steps that are held near the adapters with which the round began."""

    name: Literal["fedprox"] = "fedprox"
    mu: Real = Field(
        default=0.01,
        gt=0,
        le=1e6,
        description="weight of the proximal term: mu / 2 times the squared distance to the"
        " adapters with which the round began is added to the loss",
    )


class NoAggregation(Section):
    """Nothing is merged: each device keeps its own adapters, in both parts."""

    name: Literal["none"] = "none"


class DeviceAggregation(AveragingSection):
    """FedAvg of the devices' part; in the server's part each device keeps its own adapters."""

    name: Literal["device"] = "device"


class ServerAggregation(AveragingSection):
    """FedAvg of the server's part; in its own part each device keeps its own adapters."""

    name: Literal["server"] = "server"


class MedianAggregation(Section):
    """The median of each value, whatever samples devices say they have."""

    name: Literal["median"] = "median"


class TrimmedMeanAggregation(Section):
    """The mean of each value without the devices that have the most and the least of it."""

    name: Literal["trimmed-mean"] = "trimmed-mean"
    trim: Real = Field(
        default=0.2,
        gt=0,
        lt=0.5,
        description="share of the devices that is left out at either end of each value, rounded up",
    )


class NormClippedAggregation(Section):
    """The mean of updates that are shortened where they are too long."""

    name: Literal["norm-clipped"] = "norm-clipped"
    most_norm: Real = Field(
        default=1.0,
        gt=0,
        le=1e6,
        description="the longest that an update may be, in median lengths of the round's updates",
    )


class KrumAggregation(Section):
    """The mean of the adapters whose neighbours are nearest (multi-Krum)."""

    name: Literal["krum"] = "krum"
    hostile: Real = Field(
        default=0.2,
        gt=0,
        lt=0.5,
        description="share of the devices that may be hostile, rounded up: so many are left out",
    )


AggregationSection: TypeAlias = (
    FedAvgAggregation
    | FedProxAggregation
    | NoAggregation
    | DeviceAggregation
    | ServerAggregation
    | MedianAggregation
    | TrimmedMeanAggregation
    | NormClippedAggregation
    | KrumAggregation
    | PluginSection
)


class _Planner(Section):
    name: str
    most_share: Annotated[ShareEach, read_by("name", *_ARRANGED)] = Field(
        default=1.0,
        description="largest bandwidth share of a device",
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
        description="largest accuracy loss of the codec, and of a frozen device part (0.02 is two"
        " points)",
    )
    least_cut: Whole = Field(
        default=1,
        ge=1,
        le=10_000,
        description="smallest cut layer, for the privacy of activations",
    )
    server_busy: Real = Field(
        default=1.0,
        gt=0,
        le=1,
        description="largest fraction of a round for which the server may compute",
    )
    cuts: Literal["common", "per-device"] = Field(
        default="common", description="one cut layer for all devices, or one for each"
    )
    fix: tuple[Choice, ...] = Field(
        default=(),
        description="what a plan takes as configured while it chooses the rest, a list: scheme,"
        " cut, codec, activation_memory, micro_batches (and in_flight, if given), downlink, shares",
    )


class EvenPlanner(_Planner):
    """All devices have the same share of the bandwidth."""

    name: Literal["even"] = "even"


class FixedPlanner(_Planner):
    """Each device has its given share of the bandwidth."""

    name: Literal["fixed"] = "fixed"
    shares: tuple[Share, ...] = Field(
        min_length=1, description="a bandwidth share per device; they sum to 1 at most"
    )


class RandomPlanner(_Planner):
    """Shares are drawn each round."""

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
    """The accounting of FLOPs, traffic and memory."""

    accounting: Literal["physical", "paper"] = Field(
        default="physical",
        description="physical: what is computed; paper: its formulas as published",
    )


class NetSection(Section):
    """`cutlayer serve`: real devices, over a network. Of a simulated run quorum and deadline."""

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
        description="deadline of a round, after which it closes with a quorum of adapters, in a"
        " simulated run by the simulated clock [s];"
        " null: it closes with all of them, whenever that is",
    )
    give_up_s: Seconds | None = Field(
        default=None,
        description="a round that is open for this long without a quorum ends the run, which"
        " can be resumed [s]; null: it waits, since nothing is lost by waiting",
    )
    most_update: Annotated[Real, Field(gt=1, le=1e9)] | None = Field(
        default=10.0,
        description="an adapter that moved further in a round than so many times the median of the"
        " round's is not merged, and its device begins the next round anew; null: all are",
    )
    weights: Literal["samples", "equal"] = Field(
        default="samples",
        description="what an adapter weighs as adapters are merged: as many as the samples that its"
        " device says it has, or all the same",
    )
    most_samples: Whole | None = Field(
        default=None,
        ge=1,
        description="a device that says it has more samples weighs as much as one with so many;"
        " null: what it says",
    )
    uplink_bit_s: BitRate | None = Field(
        default=None,
        description="uplink rate that the devices share [bit/s]; each is paced to its share;"
        " null: not paced",
    )
    downlink_bit_s: BitRate | None = Field(
        default=None, description="the same for the downlink, paced by the server"
    )
    patience_s: Seconds = Field(
        default=60.0, description="a device that takes longer to read a frame is disconnected [s]"
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
        description="connections at a time, in all; a file descriptor each",
    )


class Config(Section):
    """A run: `Config(codec={"name": "best"}, training={"rounds": 3})`, or from a file by
    `read_config`. Raises ConfigError, which names the key and what it should be."""

    scheme: Annotated[SchemeSection, Choices("auto", SCHEMES)] = Field(
        default=AutoScheme(), description="How devices and server train together."
    )
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    partition: Annotated[PartitionSection, Choices("dirichlet", PARTITIONS)] = Field(
        default=DirichletPartition(), description="How samples are distributed over the devices."
    )
    adapter: Annotated[AdapterSection, read_unless("scheme.name", "fl-full")] = AdapterSection()
    device_part: Annotated[
        DevicePartSection, Choices("trained"), read_by("scheme.name", "auto", "sft")
    ] = Field(
        default=TrainedDevicePart(),
        description="When the adapters of the devices' part are trained.",
    )
    training: TrainingSection = TrainingSection()
    optimizer: Annotated[OptimizerSection, Choices("adamw")] = Field(
        default=AdamWOptimizer(),
        description="The optimiser of the adapters, in both parts; each device has its own state.",
    )
    aggregation: Annotated[
        AggregationSection, Choices("fedavg", AGGREGATIONS), read_unless("scheme.name", "sl")
    ] = Field(
        default=FedAvgAggregation(),
        description="How the server aggregates the devices' adapters as a round ends.",
    )
    evaluation: EvaluationSection = EvaluationSection()
    codec: Annotated[
        CodecSection, Choices("best", CODECS), read_by("scheme.name", *_COMPRESSING)
    ] = Field(
        default=BestCodec(),
        description="Compression of activations (uplink) and activation gradients (downlink).",
    )
    adapter_codec: Annotated[
        AdapterCodecSection, Choices("none"), read_unless("scheme.name", "fl-full")
    ] = Field(
        default=NoAdapterCodec(),
        description="Compression of the adapters that are broadcast and uploaded.",
    )
    cache: Annotated[CacheSection, read_by("scheme.name", "sft-cached")] = CacheSection()
    devices: DevicesSection = DevicesSection()
    server: ServerSection = ServerSection()
    channel: Annotated[ChannelSection, Choices("snr", CHANNELS)] = Field(
        default=SnrSection(),
        description="The channel, which gives each device's rates in every round.",
    )
    link: LinkSection = LinkSection()
    cost: CostSection = CostSection()
    planner: Annotated[PlannerSection, Choices("even", ALLOCATIONS)] = Field(
        default=EvenPlanner(),
        description="The bandwidth allocation of each round, and the limits of `cutlayer plan`.",
    )
    net: NetSection = NetSection()
    engine: Annotated[EngineSection, Choices("local")] = Field(
        default=LocalEngine(), description="Who computes a simulation, or the runs of a sweep."
    )
    seed: Whole = Field(
        default=0, ge=0, le=2**31 - 1, description="every random draw follows from it"
    )
    threads: Annotated[int, Field(ge=1, le=1024), Number] | None = Field(
        default=None,
        description="torch threads; null: torch's choice (same bytes need the same)",
    )

    if TYPE_CHECKING:  # a section may be a mapping or a name, which a type checker cannot know

        def __init__(self, **sections: Any) -> None: ...
