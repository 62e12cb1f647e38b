"""The nouns: what a model, a device and a mini-batch are to the mathematics.

Plain values with units in their names. Knows no tensors: `model.describe` makes a `ModelSpec` from
a pretrained model, the configuration makes the rest.
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from enum import StrEnum
from typing import Literal, TypeAlias

Task: TypeAlias = Literal["image-classification", "text-classification", "causal-lm"]

# of language modelling: how a table's rows are examples, which of their tokens count, how they
# become rows of tokens, and what is done to those that are too long
TextFormat: TypeAlias = Literal["text", "messages", "prompt-completion", "alpaca", "sharegpt"]
LossOn: TypeAlias = Literal["assistant", "completion", "all"]
Packing: TypeAlias = Literal["blocks", "documents", "none"]
TooLong: TypeAlias = Literal["right", "left", "drop", "stop"]

# how transformers loads a model: by its class for the task; not from the base, since that has more
# than this part of it; not at all, since its head is cutlayer's
Loading: TypeAlias = Literal["auto", "part", "own-head"]

# the label of a place that no loss counts, as in torch and transformers
IGNORED_LABEL = -100

# logits of a language model that are there at once, in training and in evaluation: 128 MiB, and
# their gradient as much
MOST_LOGITS = 2**25


class ActivationPolicy(StrEnum):
    """What a device keeps of a mini-batch until its gradient comes.

    KEEP: all that backward needs. CHECKPOINT: each block's input; blocks run again one by one.
    RECOMPUTE: the mini-batch alone; the whole device part runs again.
    """

    KEEP = "keep"
    CHECKPOINT = "checkpoint"
    RECOMPUTE = "recompute"


@dataclass(frozen=True)
class MiniBatchPolicy:
    """How devices work through a mini-batch: what of it they keep, in how many micro-batches, how
    many of them between their forward and their backward at a time."""

    activation_memory: ActivationPolicy = ActivationPolicy.KEEP
    micro_batches: int = 1
    in_flight: int = 1

    def __str__(self) -> str:
        if self.micro_batches == 1:
            return str(self.activation_memory)
        parts = f"{self.micro_batches} micro-batches, {self.in_flight} in flight"
        return f"{self.activation_memory}, {parts}"


# values that share a scale
NF4_BLOCK = 64

# of packed weights, the values that a processor unpacks at a time, into a place that it keeps: 8
# MiB of float32, which stay in its cache
UNPACKED_VALUES = 2**21

# kept whole
KEEP_WHOLE = MiniBatchPolicy()


class Base(StrEnum):
    """The numbers in which a part's frozen weights are held; adapters are float32 always."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    NF4 = "nf4"

    def bytes_per_parameter(self, columns: int) -> float:
        """Bytes of a value in a matrix with rows of `columns`, its share of the scales included:
        int8 has a float32 a row, nf4 one a block."""
        match self:
            case Base.FLOAT32:
                return 4.0
            case Base.BFLOAT16:
                return 2.0
            case Base.INT8:
                return 1.0 + 4.0 / columns
            case Base.NF4:
                return 0.5 + 4.0 / NF4_BLOCK


# how many bytes of each that weights take in these numbers count
BaseShare: TypeAlias = Callable[[Base], float]


def as_stored(base: Base) -> float:
    """All of them."""
    return 1.0


class Trained(StrEnum):
    """What is trained and exchanged: LoRA adapters on a frozen base, or every weight."""

    ADAPTERS = "adapters"
    WEIGHTS = "weights"


@dataclass(frozen=True)
class MiniBatch:
    """The shape of one local step's input: `samples` sequences of `tokens` tokens."""

    samples: int
    tokens: int


@dataclass(frozen=True)
class BatchBytes:
    """Bytes that grow with a mini-batch of B samples of N tokens.

    `fixed + position N + position_pair N^2 + B (sample + token N + token_pair N^2)`: what a token
    leaves in a linear layer is `token`, a matrix of attention `token_pair`, a mask that all samples
    share `position_pair`.
    """

    fixed: float = 0.0
    position: float = 0.0
    position_pair: float = 0.0
    sample: float = 0.0
    token: float = 0.0
    token_pair: float = 0.0

    def __add__(self, other: "BatchBytes") -> "BatchBytes":
        return BatchBytes(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def of(self, batch: MiniBatch) -> float:
        """Bytes for this mini-batch."""
        B, N = batch.samples, batch.tokens
        shared = self.fixed + self.position * N + self.position_pair * N**2
        return shared + B * (self.sample + self.token * N + self.token_pair * N**2)


@dataclass(frozen=True)
class BlockBytes:
    """What autograd keeps of a block: all of it, and all but the block's own input."""

    kept: BatchBytes
    beyond_input: BatchBytes


@dataclass(frozen=True)
class Activations:
    """What autograd keeps for backward of each part of a model with its adapters.

    The frozen weights and the adapters themselves are not counted: they are there anyway. Nor are
    `inputs`, the mini-batch as it is given to the model. The first block differs from the others
    where nothing before it is trained; the server's first (`served_block`) does not, but it keeps
    what blocks share. `embedding` and `head` are what comes before and after the blocks.
    """

    inputs: BatchBytes
    embedding: BatchBytes
    first_block: BlockBytes
    block: BlockBytes
    served_block: BlockBytes
    head: BatchBytes


@dataclass(frozen=True)
class LinearShape:
    """One linear layer of a block: `inputs -> outputs`, with a LoRA adapter of `rank` (0: none).

    `reads_block_input` marks those (query, key, value) with nothing trainable before them inside
    the block: in the very first block, autograd stops there.
    """

    inputs: int
    outputs: int
    rank: int = 0
    reads_block_input: bool = False

    @property
    def adapter_parameters(self) -> int:
        """Values in A (rank x inputs) and B (outputs x rank)."""
        return self.rank * (self.inputs + self.outputs)


@dataclass(frozen=True)
class OtherBlocks:
    """Blocks, by number from 0, whose adapters are of other `ranks` than those of
    `ModelSpec.block_linears`, in that order (0: none); what autograd keeps of such a block, and of
    one as the server's first."""

    at: tuple[int, ...]
    ranks: tuple[int, ...]
    kept: BlockBytes
    served: BlockBytes


@dataclass(frozen=True)
class ModelSpec:
    """A transformer's dimensions, as the cost models read them.

    All blocks are alike but for adapters; of blocks that differ in size, all are as the largest.
    `block_linears` are those of the first block that has adapters, or has something trained before
    it, `others` of blocks that differ in them. `embedding` is what comes before the first block (on
    the devices), `head` what follows the last one: final norm, pooling, head (on the server); the
    head runs once a sample, or once a token for language modelling (`head_per_token`).
    `shared_parameters` are both
    embedding and head (tied), held by both sides and counted in both.

    `bytes_per_value` is that of activations, and of weights that no base packs; adapters are
    float32 always. A base of other numbers than those packs the linear layers of the blocks, and
    of the embedding and the head `embedding_matrix` and `head_matrix`: how many of their values are
    in a matrix that is large enough. `embedding_adapter_parameters` and
    `head_adapter_parameters` are trained outside the blocks (patch adapter; a trained head).
    `expert_flops_per_token`: operations forward of a block's experts, which have no adapters.
    `first_attention_trained`: whether the first block's attention has anything trained before it.
    `attention_backward`: operations of attention's backward over those of its forward: 2 where the
    attention matrix is kept, 2.5 where a fused kernel computes it again.
    `activations`: None where nobody counted them, which is enough for all but memory.
    """

    name: str
    blocks: int
    width: int
    heads: int
    head_width: int
    block_linears: tuple[LinearShape, ...]
    block_parameters: int
    embedding_parameters: int
    head_parameters: int
    classes: int
    head_per_token: bool = False
    shared_parameters: int = 0
    embedding_flops_per_token: int = 0
    bytes_per_value: int = 4
    embedding_adapter_parameters: int = 0
    embedding_adapter_flops_per_token: int = 0
    head_adapter_parameters: int = 0
    first_attention_trained: bool = True
    attention_backward: float = 2.5
    activations: Activations | None = None
    embedding_matrix: int = 0
    expert_flops_per_token: int = 0
    head_matrix: int = 0
    others: tuple[OtherBlocks, ...] = ()
    device_base: Base = Base.FLOAT32
    server_base: Base = Base.FLOAT32

    @property
    def parameters(self) -> int:
        """Base parameters of the whole model, adapters not counted."""
        outside = self.embedding_parameters + self.head_parameters - self.shared_parameters
        return outside + self.blocks * self.block_parameters

    @property
    def rank(self) -> int:
        """The largest rank of an adapter in a block; 0 without adapters."""
        return max((rank for kind in self.kinds(0, self.blocks) for rank in kind.ranks), default=0)

    @property
    def first_trained(self) -> int:
        """The first block, from 0, with adapters in it or before it: backward ends there."""
        without = {at for other in self.others if not any(other.ranks) for at in other.at}
        if self.embedding_adapter_parameters:
            return 0
        return next((at for at in range(self.blocks) if at not in without), 0)

    @property
    def cuts(self) -> range:
        """The cuts that leave both sides something to train."""
        trained = [at for at in range(self.blocks) if self.adapter_parameters(at, at + 1)]
        if not trained:  # of all weights
            return range(1, self.blocks)
        least = 1 if self.embedding_adapter_parameters else trained[0] + 1
        deepest = self.blocks - 1 if self.head_adapter_parameters else trained[-1]
        return range(least, deepest + 1)

    def frozen_below(self, cut: int) -> "ModelSpec":
        """The same without adapters in the embedding and the first `cut` blocks, which have no
        backward and keep nothing for it."""
        nothing = BlockBytes(BatchBytes(), BatchBytes())
        above = [
            replace(other, at=tuple(at for at in other.at if at >= cut)) for other in self.others
        ]
        below = OtherBlocks(tuple(range(cut)), (0,) * len(self.block_linears), nothing, nothing)
        return replace(
            self,
            others=(below, *(other for other in above if other.at)),
            embedding_adapter_parameters=0,
            embedding_adapter_flops_per_token=0,
        )

    def kinds(self, first: int, end: int) -> tuple["BlockKind", ...]:
        """The blocks from `first` to the one before `end`, by kind: first those that are as
        `block_linears` says, even if there are none of them."""
        found = []
        for other in self.others:
            own = sum(first <= at < end for at in other.at)
            if own:
                linears = tuple(
                    replace(linear, rank=rank)
                    for linear, rank in zip(self.block_linears, other.ranks, strict=True)
                )
                found.append(BlockKind(own, linears, other))
        rest = max(end - first, 0) - sum(kind.count for kind in found)
        return (BlockKind(rest, self.block_linears), *found)

    def kind_of(self, block: int) -> OtherBlocks | None:
        """What is other about this block."""
        return next((other for other in self.others if block in other.at), None)

    def adapter_parameters(self, first: int, end: int) -> int:
        """Adapter parameters of the blocks from `first` to the one before `end`."""
        return sum(kind.count * kind.adapter_parameters for kind in self.kinds(first, end))

    def device_parameters(self, cut: int) -> int:
        """Base parameters of the embedding and `cut` blocks; with `cut = blocks` of the whole."""
        if cut == self.blocks:
            return self.parameters
        return self.embedding_parameters + cut * self.block_parameters

    def device_weight_bytes(self, cut: int, share: BaseShare = as_stored) -> float:
        """Bytes of those in the devices' base; with `cut = blocks` of the whole in it. `share`: how
        many bytes of each that a base's numbers take count."""
        base = self.device_base
        embedding = self._packed_bytes(
            self.embedding_parameters, self.embedding_matrix, base, share=share
        )
        if cut < self.blocks:
            return embedding + cut * self._block_bytes(base, share)
        shared = self._packed_bytes(
            self.shared_parameters, self.shared_parameters, base, share=share
        )
        head = self._head_bytes(base, share)
        return embedding + head - shared + self.blocks * self._block_bytes(base, share)

    def server_weight_bytes(self, cut: int) -> float:
        """Bytes of the blocks after `cut` and of the head in the server's base, whose float32 has 4
        bytes wherever activations have fewer."""
        if self.server_base is Base.FLOAT32:
            return 4.0 * ((self.blocks - cut) * self.block_parameters + self.head_parameters)
        blocks = (self.blocks - cut) * self._block_bytes(self.server_base)
        return blocks + self._head_bytes(self.server_base)

    def _block_bytes(self, base: Base, share: BaseShare = as_stored) -> float:
        rest = self.block_parameters - sum(x.inputs * x.outputs for x in self.block_linears)
        packed = sum(
            self._packed_bytes(x.inputs * x.outputs, x.inputs * x.outputs, base, x.inputs, share)
            for x in self.block_linears
        )
        return self._plain_rate(share) * rest + packed

    def _head_bytes(self, base: Base, share: BaseShare = as_stored) -> float:
        base = Base.INT8 if base is Base.NF4 else base
        return self._packed_bytes(self.head_parameters, self.head_matrix, base, share=share)

    def _packed_bytes(
        self,
        parameters: int,
        packed: int,
        base: Base,
        columns: int | None = None,
        share: BaseShare = as_stored,
    ) -> float:
        """Bytes of weights of which a base packs so many, in rows of `columns` (the width)."""
        plain = self._plain_rate(share)
        rate = plain
        if base is not Base.FLOAT32:
            rate = share(base) * base.bytes_per_parameter(columns or self.width)
        return plain * (parameters - packed) + rate * packed

    def _plain_rate(self, share: BaseShare) -> float:
        """Bytes of a weight that no base packs."""
        whole = self.bytes_per_value == Base.FLOAT32.bytes_per_parameter(1)
        return share(Base.FLOAT32 if whole else Base.BFLOAT16) * self.bytes_per_value

    def device_adapter_parameters(self, cut: int) -> int:
        """Adapter parameters of the embedding and `cut` blocks; with `cut = blocks` of the whole,
        a trained head included."""
        head = self.head_adapter_parameters if cut == self.blocks else 0
        return self.embedding_adapter_parameters + self.adapter_parameters(0, cut) + head

    def server_adapter_parameters(self, cut: int) -> int:
        """Adapter parameters of the blocks after `cut`, and of a trained head."""
        return self.adapter_parameters(cut, self.blocks) + self.head_adapter_parameters


@dataclass(frozen=True)
class BlockKind:
    """So many blocks with the same linear layers and adapters; `other`: where they are not the
    model's usual ones."""

    count: int
    linears: tuple[LinearShape, ...]
    other: OtherBlocks | None = None

    @property
    def ranks(self) -> tuple[int, ...]:
        """Of the adapters, by layer."""
        return tuple(linear.rank for linear in self.linears)

    @property
    def adapter_parameters(self) -> int:
        """Adapter parameters of one of them."""
        return sum(linear.adapter_parameters for linear in self.linears)


@dataclass(frozen=True)
class Device:
    """A device: compute rate, signal-to-noise ratio each way, memory for training (None: no limit).

    `reserved_bytes`: what its system keeps beside that, which nobody plans with. `power_w`,
    `idle_power_w`: what it draws while it computes and while it waits; None: unknown.
    """

    name: str
    flops_per_s: float
    uplink_snr_db: float
    downlink_snr_db: float
    memory_bytes: int | None = None
    reserved_bytes: int = 0
    power_w: float | None = None
    idle_power_w: float | None = None


@dataclass(frozen=True)
class LeftOut:
    """What lies in a data set and is no sample: `count` of `what` ("files"), and `why`."""

    what: str
    why: str
    count: int
