"""What is trained, how it steps and who computes it: adapters, rounds and their mini-batches, the
optimiser, the engine."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from cutlayer.config.section import (
    MOST_DEVICES,
    Choices,
    Mebibytes,
    Number,
    Pattern,
    Positive,
    Real,
    Seconds,
    Section,
    Text,
    Whole,
    read_by,
    read_unless,
)

_Steps = Annotated[int, Field(ge=1, le=10**6), Number]
_MicroBatches = Annotated[int, Field(ge=1, le=65_536), Number]
_Block = Annotated[int, Field(ge=0, le=10_000), Number]
_Rank = Annotated[int, Field(ge=1, le=65_536), Number]
_Alpha = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False), Number]
_Rate = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False), Number]
_Norm = Annotated[float, Field(ge=1e-12, le=1e12, allow_inf_nan=False), Number]
_Beta = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), Number]
_Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), Number]
_END = "fraction of the learning rate that it comes down to"


class AdapterSection(Section):
    """The LoRA adapters, which are trained."""

    rank: _Rank | Literal["memory"] | Annotated[tuple[_Rank, ...], Field(min_length=1)] = Field(
        default=8,
        description="rank of every LoRA adapter, at most the width of the layers; a list: each"
        " device's, over and over where there are more devices; memory: each device's is the"
        " largest that fits devices.memory_mib, of 1, 2, 4, ... and most_rank",
    )
    most_rank: Annotated[Whole, read_by("rank", "memory")] = Field(
        default=16, ge=1, le=65_536, description="the largest rank of a device, by memory"
    )
    alpha: Real = Field(
        default=8.0,
        ge=1e-6,
        le=1e6,
        description="adapters are scaled by alpha / rank (see rslora), by the largest rank where"
        " devices differ",
    )
    rslora: bool = Field(
        default=False, description="scale by alpha / sqrt(rank), rank-stabilised LoRA"
    )
    dropout: Real = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="fraction of a layer's inputs that its adapter does not see, drawn anew for"
        " each sample and local step; none in evaluation",
    )
    targets: Pattern | Annotated[tuple[Text, ...], Field(min_length=1)] = Field(
        default="all",
        description="linear layers adapted in each block: all, a name or a list of names, or a"
        " regular expression of whole names, as PEFT's target_modules",
    )
    layers: Annotated[tuple[_Block, ...], Field(min_length=1)] | None = Field(
        default=None,
        description="numbers of the blocks that have adapters, from 0, a list; null: all",
    )
    rank_pattern: dict[Pattern, _Rank] = Field(
        default={},
        description="other ranks for some layers, by regular expressions of the ends of names",
    )
    alpha_pattern: dict[Pattern, _Alpha] = Field(
        default={},
        description="other alphas for some layers, by regular expressions of the ends of names",
    )
    patch_embedding: bool = Field(
        default=False, description="an adapter on the patch embedding too (vision models)"
    )
    head: bool | None = Field(
        default=None, description="train the classification head; null: yes where there is one"
    )
    start_from: Text | None = Field(
        default=None,
        min_length=1,
        description="an adapter to begin with, not a new one: a folder in PEFT's format, or a run"
        " directory; rank, alpha, layers and head are those given here, and must be its own",
    )

    @property
    def largest_rank(self) -> int:
        """Of the global adapter, and of any device."""
        if isinstance(self.rank, tuple):
            return max(self.rank)
        return self.most_rank if self.rank == "memory" else self.rank


class TrainingSection(Section):
    """Rounds, local steps, mini-batches and micro-batches."""

    rounds: Whole = Field(
        default=5,
        ge=1,
        le=10**6,
        description="rounds; each ends with the aggregation of the adapters",
    )
    local_steps: Annotated[_Steps | None, read_by("local_epochs", None)] = Field(
        default=10,
        description="local steps (mini-batches) per device and round; null: see local_epochs",
    )
    local_epochs: _Steps | None = Field(
        default=None,
        description="epochs over its samples per device and round, instead of local steps",
    )
    batch_size: Whole = Field(
        default=16,
        ge=1,
        le=65_536,
        description="samples in a mini-batch; a device with fewer takes all it has",
    )
    micro_batches: _MicroBatches | None = Field(
        default=None,
        description="micro-batches of a mini-batch; null: 4 for sft-overlap, else 1",
    )
    in_flight: Annotated[_MicroBatches | None, read_by("scheme.name", "sft-overlap")] = Field(
        default=None,
        description="micro-batches in flight at most, between forward and backward; null: all",
    )
    label_smoothing: Real = Field(
        default=0.0,
        ge=0,
        le=1,
        description="fraction of each label that is spread evenly over all classes, or over the"
        " vocabulary; of the training loss alone",
    )


class EvaluationSection(Section):
    """When a run is evaluated and on what, and when it ends early."""

    every: Whole = Field(
        default=1,
        ge=1,
        le=10**6,
        description="rounds from one evaluation to the next; the first and the last round always"
        " have one",
    )
    samples: Annotated[int, Field(ge=1, le=10**9), Number] | None = Field(
        default=None,
        description="samples that rounds are evaluated on, drawn once from the seed; null: all",
    )
    validation_fraction: Real = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="fraction of the training samples that is held out to evaluate rounds on; the"
        " test split is then evaluated at the end alone",
    )
    patience: Annotated[int, Field(ge=1, le=10**6), Number] | None = Field(
        default=None,
        description="the run ends after so many rounds without a better score; null: never early",
    )
    figures: tuple[Literal["macro-f1", "devices"], ...] = Field(
        default=(),
        description="what each evaluated round's record has besides score and loss, a list:"
        " macro-f1 (of a classification), devices (each device's score on the held-out samples,"
        " weighted so that their labels are distributed as in its training samples)",
    )
    min_delta: Annotated[Real, read_unless("patience", None)] = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description="how much better a score must be to count, in its own unit (0.01 is a point of"
        " accuracy)",
    )


class DecaySchedule(Section):
    """The same in all local steps of a round, and lower after each round."""

    name: Literal["decay"] = "decay"
    factor: Real = Field(
        default=0.998,
        gt=0,
        le=1,
        description="the learning rate is multiplied by this after each round",
    )


class _BySteps(Section):
    name: str
    warmup_steps: Annotated[int, Field(ge=0, le=10**9), Number] = Field(
        default=0,
        description="local steps in which the learning rate rises from 0, counted over all rounds",
    )


class ConstantSchedule(_BySteps):
    """The same in all local steps."""

    name: Literal["constant"] = "constant"


class LinearSchedule(_BySteps):
    """Lower with every local step, in a straight line until the last round's end."""

    name: Literal["linear"] = "linear"
    end_fraction: _Fraction = Field(default=0.0, description=_END)


class CosineSchedule(_BySteps):
    """Lower with every local step, by half a period of a cosine until the last round's end."""

    name: Literal["cosine"] = "cosine"
    end_fraction: _Fraction = Field(default=0.0, description=_END)


ScheduleSection: TypeAlias = DecaySchedule | ConstantSchedule | LinearSchedule | CosineSchedule


class _Optimizer(Section):
    name: str
    learning_rate: Positive = Field(
        default=1e-3, le=1e12, description="learning rate, before its schedule"
    )
    head_learning_rate: Annotated[
        _Rate | None,
        read_unless("scheme.name", "fl-full"),
    ] = Field(
        default=None,
        description="learning rate of the trained head, by the same schedule; null: learning_rate",
    )
    schedule: Annotated[ScheduleSection, Choices("decay")] = Field(
        default=DecaySchedule(),
        description="How the learning rate goes on, from local step to local step.",
    )
    clip_norm: _Norm | None = Field(
        default=None,
        description="a mini-batch's gradient is scaled to this norm where it is longer, on the"
        " device and on the server each by the norm of its own part's; null: never",
    )


class AdamWOptimizer(_Optimizer):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = "adamw"
    betas: Annotated[tuple[_Beta, ...], Field(min_length=2, max_length=2)] = Field(
        default=(0.9, 0.999),
        description="how much of the running means of the gradient and of its square is kept at a"
        " step, a list of both",
    )
    eps: Real = Field(
        default=1e-8,
        ge=1e-30,
        le=1.0,
        description="added to the root of the mean square, by which a step is divided",
    )
    weight_decay: Real = Field(default=0.0, ge=0, le=1e6, description="decoupled weight decay")


class SgdOptimizer(_Optimizer):
    """Stochastic gradient descent with momentum, the paper's."""

    name: Literal["sgd"] = "sgd"
    momentum: Real = Field(
        default=0.9,
        ge=0,
        lt=1,
        description="momentum: fraction of the previous update that is added",
    )
    weight_decay: Real = Field(default=0.0, ge=0, le=1e6, description="L2 weight decay")


OptimizerSection: TypeAlias = AdamWOptimizer | SgdOptimizer


_Workers = Annotated[int, Field(ge=1, le=100_000), Number]


class _Engine(Section):
    name: str
    cohort: Whole = Field(
        default=50,
        ge=1,
        le=MOST_DEVICES,
        description="devices that a worker plays at a time, at most; more are cut into equal"
        " cohorts, and results depend on these, not on the engine or its workers",
    )


class LocalEngine(_Engine):
    """This process."""

    name: Literal["local"] = "local"


class ProcessesEngine(_Engine):
    """Processes of this machine."""

    name: Literal["processes"] = "processes"
    workers: _Workers | None = Field(default=None, description="how many; null: one a core")


class RayEngine(_Engine):
    """Actors of a Ray cluster; needs the extra ray."""

    name: Literal["ray"] = "ray"
    workers: _Workers | None = Field(
        default=None, description="how many, each of one CPU; null: as many as the cluster has CPUs"
    )
    address: Text | None = Field(
        default=None,
        description="of the cluster: HOST:PORT, ray://HOST:PORT, or auto on one of its nodes;"
        " null: one that is started on this machine and ends with the run",
    )
    wait_s: Seconds = Field(
        default=60.0, description="how long to wait for the cluster, and for room on it [s]"
    )
    memory_mib: Annotated[Mebibytes, read_by("address", None)] = Field(
        default=512.0, description="what the workers may share, of a cluster that is started [MiB]"
    )


EngineSection: TypeAlias = LocalEngine | ProcessesEngine | RayEngine


def with_workers(section: EngineSection, workers: int | None) -> EngineSection:
    """The engine with so many workers (None: as it is): of one that has one, processes."""
    if workers is None:
        return section
    if isinstance(section, LocalEngine):
        return section if workers == 1 else ProcessesEngine(workers=workers, cohort=section.cohort)
    return section.model_copy(update={"workers": workers})
