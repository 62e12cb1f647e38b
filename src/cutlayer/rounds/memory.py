"""What a device must hold to train its part: as autograd holds it, and as published.

And the two ways to count by name: FLOPs, traffic and memory together. Knows the sizes that
`ModelSpec.activations` brings, and no tensors.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Generic, Protocol, TypeVar, cast, runtime_checkable

from cutlayer.errors import ConfigError
from cutlayer.rounds.costs import (
    ACTIVATION_BYTES,
    TRAINED_BYTES,
    SchemeTraffic,
    SentWeights,
    StepFlops,
    check_device_part,
    check_split,
    paper_flops,
    paper_traffic,
    physical_flops,
    physical_traffic,
)
from cutlayer.spec import (
    KEEP_WHOLE,
    MOST_LOGITS,
    UNPACKED_VALUES,
    ActivationPolicy,
    Activations,
    Base,
    BatchBytes,
    BlockBytes,
    MiniBatch,
    MiniBatchPolicy,
    ModelSpec,
    Trained,
)

LINEAR_COEFFICIENT = 34
ATTENTION_COEFFICIENT = 5

Bytes = TypeVar("Bytes", int, float)


# where adapters travel as changes, a device remembers what its row began as, and what was lost
CODED_ROWS = 2


@dataclass(frozen=True)
class PartMemory(Generic[Bytes]):
    """Bytes by kind at the peak of a local step: whole where they were measured.

    `adapters` are none where all weights are trained: they are the weights. `gradients` are those
    of what is trained; `activations` what is kept for backward; `input` the mini-batch itself, or
    what a server receives and sends of it; `codec` what a server remembers of packets.
    """

    weights: Bytes
    adapters: Bytes
    optimizer: Bytes
    gradients: Bytes
    activations: Bytes
    input: Bytes
    codec: Bytes

    @property
    def total(self) -> Bytes:
        """All of them together [byte]."""
        return cast(Bytes, sum(asdict(self).values()))

    def __add__(self, other: "PartMemory[Bytes]") -> "PartMemory[Bytes]":
        own, more = asdict(self), asdict(other)
        return PartMemory(**{kind: own[kind] + more[kind] for kind in own})


def device_memory(
    model: ModelSpec,
    cut: int,
    batch: MiniBatch,
    policy: MiniBatchPolicy = KEEP_WHOLE,
    *,
    optimizer_slots: int = 1,
    trained: Trained = Trained.ADAPTERS,
) -> PartMemory[float]:
    """What a device with the embedding and blocks 1..cut holds [byte]; `cut = blocks`: the whole.

    `optimizer_slots`: values that the optimiser keeps for each trained one (0 SGD, 1 momentum,
    2 Adam); what is trained, its gradients and slots are float32. With all weights trained the
    activations are those of adapters on every layer, which are r values a layer and token more.
    For the peaks see `activation_bytes`. Not counted: the gradients
    that backward passes from layer to layer, and what the codec needs.
    Raises ConfigError: a cut, count or batch that is not; no `model.activations`.
    """
    check_device_part(model, cut)
    _check_counts(batch, policy, optimizer_slots)
    weights, adapters = model.device_parameters(cut), model.device_adapter_parameters(cut)
    weight_bytes, values = model.device_weight_bytes(cut), adapters
    if trained is Trained.WEIGHTS:
        weight_bytes, values, adapters = float(TRAINED_BYTES * weights), weights, 0
    micro = MiniBatch(-(-batch.samples // policy.micro_batches), batch.tokens)
    return PartMemory(
        weights=weight_bytes,
        adapters=TRAINED_BYTES * adapters,
        gradients=TRAINED_BYTES * values,
        optimizer=TRAINED_BYTES * values * optimizer_slots,
        activations=activation_bytes(model, cut, micro, policy.activation_memory, policy.in_flight),
        input=_activations(model).inputs.of(batch),
        codec=0,
    )


def activation_bytes(
    model: ModelSpec,
    cut: int,
    batch: MiniBatch,
    activation_memory: ActivationPolicy,
    in_flight: int = 1,
) -> float:
    """What the device part keeps for backward at its peak [byte], `in_flight` batches at a time.

    KEEP: all that each batch's forward left, from its end to its backward. CHECKPOINT: the inputs
    of all blocks, and all of one block of one batch: the peak is where backward has just computed
    the last block again, or one before it with larger adapters. RECOMPUTE: nothing waits (the
    mini-batch is counted as input); the peak is where backward has computed one batch's forward
    again, as KEEP with one in flight. Of a part that is frozen nothing is kept: the peak is the
    forward's own.
    """
    held = _activations(model)
    if model.first_trained >= cut:
        return forward_bytes(model, batch)
    # a block keeps nothing where no gradient goes
    begin = min(model.first_trained, cut - 1)
    outside = held.embedding.of(batch) + (held.head.of(batch) if cut == model.blocks else 0)
    if activation_memory is ActivationPolicy.CHECKPOINT:
        waiting = held.embedding.of(batch) + (cut - begin) * block_input_bytes(model).of(batch)
        head = held.head.of(batch) if cut == model.blocks else 0
        blocks = [held.first_block, *(_kept(model, at) for at in range(begin + 1, cut))]
        return in_flight * (waiting + head) + _run_again(model, blocks, batch)
    kept = outside + held.first_block.kept.of(batch) + _kept_of(model, begin + 1, cut, batch)
    return kept if activation_memory is ActivationPolicy.RECOMPUTE else in_flight * kept


def forward_bytes(model: ModelSpec, batch: MiniBatch) -> float:
    """What a forward without a backward has at a time [byte], within a tenth of what torch's CPU
    kernels have: the hidden states of a block (four of them: what came in, after attention, its
    norm, and the block's before), and of its widest layers what comes out, before and after the
    activation function; and the place where packed weights are unpacked."""
    hidden = 4 * model.width
    widest = max(linear.outputs for linear in model.block_linears)
    wide = 1 + sum(linear.outputs == widest for linear in model.block_linears)
    unpacked = 0
    if model.device_base is not Base.FLOAT32:
        largest = max(linear.inputs * linear.outputs for linear in model.block_linears)
        unpacked = TRAINED_BYTES * min(largest, UNPACKED_VALUES)
    token = model.bytes_per_value * (hidden + wide * widest)
    return float(batch.samples * batch.tokens * token + unpacked)


def server_activation_bytes(
    model: ModelSpec,
    cut: int,
    batch: MiniBatch,
    activation_memory: ActivationPolicy = ActivationPolicy.KEEP,
) -> float:
    """What the server part keeps of one pass for backward [byte], logits apart.

    CHECKPOINT: the inputs of its blocks, and all of one block, as `activation_bytes`.
    """
    # where the device's part is frozen, backward ends within this one
    held, begin = _activations(model), max(cut, model.first_trained)
    other = model.kind_of(begin)
    first = _served(model, begin)
    if model.first_trained >= cut:
        first = held.first_block if other is None else other.kept
    if activation_memory is ActivationPolicy.CHECKPOINT:
        inputs = (model.blocks - begin) * block_input_bytes(model).of(batch)
        again = [first, *(_kept(model, at) for at in range(begin + 1, model.blocks))]
        return inputs + _run_again(model, again, batch) + held.head.of(batch)
    rest = _kept_of(model, begin + 1, model.blocks, batch)
    return first.kept.of(batch) + rest + held.head.of(batch)


def _kept_of(model: ModelSpec, first: int, end: int, batch: MiniBatch) -> float:
    """What the blocks from `first` to the one before `end` keep, others before and after them."""
    usual = _activations(model).block
    return sum(
        kind.count * (usual if kind.other is None else kind.other.kept).kept.of(batch)
        for kind in model.kinds(first, end)
    )


def _run_again(model: ModelSpec, blocks: Sequence[BlockBytes], batch: MiniBatch) -> float:
    """The most beside their inputs where blocks run again one by one, the last one first: those
    that have run keep their inputs no more."""
    # one of all that are alike
    ends = [
        at for at in range(len(blocks)) if at + 1 == len(blocks) or blocks[at] != blocks[at + 1]
    ]
    gone = block_input_bytes(model).of(batch)
    return max(blocks[at].beyond_input.of(batch) - (len(blocks) - 1 - at) * gone for at in ends)


def _kept(model: ModelSpec, block: int) -> BlockBytes:
    other = model.kind_of(block)
    return _activations(model).block if other is None else other.kept


def _served(model: ModelSpec, block: int) -> BlockBytes:
    """What a block keeps as the server's first."""
    other = model.kind_of(block)
    return _activations(model).served_block if other is None else other.served


def logits_bytes(model: ModelSpec, batch: MiniBatch, trained: Trained = Trained.ADAPTERS) -> float:
    """What a language model's logits and their gradient take at a time [byte], and the gradient of
    the hidden states, which is kept where logits come in pieces; a classifier's are few."""
    if not model.head_per_token:
        return 0.0
    tokens = batch.samples * batch.tokens
    values = tokens * model.classes
    if values <= MOST_LOGITS or trained is Trained.WEIGHTS:
        return 2.0 * TRAINED_BYTES * values
    return 2.0 * TRAINED_BYTES * MOST_LOGITS + model.bytes_per_value * tokens * model.width


@dataclass(frozen=True)
class ServerShape:
    """How many a server serves: `devices` in all, `together` of them in a pass, each with a
    micro-batch like `batch`; `adapters`: how many it keeps for them (None: one each)."""

    devices: int
    batch: MiniBatch
    together: int = 1
    adapters: int | None = None

    @property
    def kept(self) -> int:
        """Adapters with their optimiser states."""
        return self.devices if self.adapters is None else self.adapters

    @property
    def whole(self) -> MiniBatch:
        """All that one pass computes."""
        return MiniBatch(self.together * self.batch.samples, self.batch.tokens)


def server_memory(
    model: ModelSpec,
    cut: int,
    shape: ServerShape,
    *,
    optimizer_slots: int = 1,
    activation_memory: ActivationPolicy = ActivationPolicy.KEEP,
    codec_bytes: float = 0.0,
) -> PartMemory[float]:
    """What a server with blocks cut+1..L and the head holds at its pass [byte].

    It has the device part too, since it evaluates and hands it out. See `serving` for the rows.
    Raises ConfigError for a cut that is not, and without `model.activations`.
    """
    check_split(model, cut)
    batch = shape.whole
    own = model.server_adapter_parameters(cut)
    kept = server_activation_bytes(model, cut, batch, activation_memory)
    received = float(ACTIVATION_BYTES * batch.samples * batch.tokens * model.width)
    return serving(
        shape,
        weights=model.device_weight_bytes(cut) + model.server_weight_bytes(cut),
        device_row=float(TRAINED_BYTES * model.device_adapter_parameters(cut)),
        server_row=float(TRAINED_BYTES * own),
        optimizer=float(TRAINED_BYTES * optimizer_slots * own),
        activations=kept + logits_bytes(model, batch),
        received=received if model.first_trained >= cut else 2 * received,
        codec=codec_bytes,
    )


def serving(
    shape: ServerShape,
    *,
    weights: Bytes,
    device_row: Bytes,
    server_row: Bytes,
    optimizer: Bytes,
    activations: Bytes,
    received: Bytes,
    codec: Bytes,
) -> PartMemory[Bytes]:
    """A server's bytes, put together: by a plan of what it counts, by a run of what it measures.

    A row each of both sides as the round began, one server-side row a device while it goes on, and
    the device-side ones that come as it ends; optimiser states as the round began and as they are
    now (`optimizer`: of one row); of the devices in a pass a copy of the row, its gradient, and
    what is collected until it steps; what was `received`, with its gradient if there is one; what
    the server's ends of a device's streams remember (`codec`).
    """
    return PartMemory(
        weights=weights,
        adapters=(1 + shape.devices) * device_row + (1 + shape.kept) * server_row,
        optimizer=2 * shape.kept * optimizer,
        gradients=3 * shape.together * server_row,
        activations=activations,
        input=received,
        codec=shape.devices * codec,
    )


def spared_by_ranks(
    model: ModelSpec, models: Sequence[ModelSpec], cut: int, optimizer_slots: int
) -> tuple[int, int]:
    """By how much a server's rows of both sides, and its optimiser states, are less where each
    device's adapters are those of its own of `models`, and not `model`'s [byte]."""
    below = sum(
        model.device_adapter_parameters(cut) - own.device_adapter_parameters(cut) for own in models
    )
    above = sum(
        model.server_adapter_parameters(cut) - own.server_adapter_parameters(cut) for own in models
    )
    return TRAINED_BYTES * (below + above), TRAINED_BYTES * 2 * optimizer_slots * above


def block_input_bytes(model: ModelSpec) -> BatchBytes:
    """The hidden states between two blocks: `b B N D`."""
    return BatchBytes(token=model.bytes_per_value * model.width)


def _activations(model: ModelSpec) -> Activations:
    if model.activations is None:
        raise ConfigError(
            f"nobody has counted what {model.name} keeps for backward; take a ModelSpec from"
            " model.describe"
        )
    return model.activations


def _check_counts(batch: MiniBatch, policy: MiniBatchPolicy, optimizer_slots: int) -> None:
    micro_batches, in_flight = policy.micro_batches, policy.in_flight
    if optimizer_slots < 0:
        raise ConfigError(f"optimizer_slots is {optimizer_slots}; it must be at least 0")
    if not 1 <= micro_batches <= batch.samples:
        raise ConfigError(
            f"micro_batches is {micro_batches}; a mini-batch of {batch.samples} samples can be cut"
            f" into 1..{batch.samples}"
        )
    if not 1 <= in_flight <= micro_batches:
        raise ConfigError(
            f"in_flight is {in_flight}; of {micro_batches} micro-batches 1..{micro_batches} can be"
        )


def paper_memory(
    model: ModelSpec,
    cut: int,
    batch: MiniBatch,
    policy: MiniBatchPolicy = KEEP_WHOLE,
    *,
    optimizer_slots: int = 1,
    trained: Trained = Trained.ADAPTERS,
) -> PartMemory[float]:
    """Equations (29) to (34) as published: `M^c(l) = 16D^2 + BND + l M_t` [byte], where a block
    takes `M_t = (2a + o)(12D^2 + 18Dr) + 34BND + 5BN^2A` with a bytes a value, A heads, and `o =
    optimizer_slots * a` (1 for SGD with momentum, 2 for Adam, 3 for mixed precision).

    Frozen weights have gradients and optimiser states like the adapters (defect 17), so it is the
    same whatever is trained; 34 and 5 are those of float16 (defect 18); `16D^2 + BND` is not what
    the text adds up (defect 19): here 16D^2 is among the weights, BND among the activations.
    The paper knows no other policy than the default: ConfigError.
    """
    check_device_part(model, cut)
    if policy != KEEP_WHOLE:
        raise ConfigError(
            "the paper's memory equations know neither activation memory"
            f" {policy.activation_memory.value} nor {policy.micro_batches} micro-batches; use the"
            " physical accounting"
        )
    alpha, B, N = model.bytes_per_value, batch.samples, batch.tokens
    D, r = model.width, model.rank
    block = 12 * D**2 + 18 * D * r
    kept = LINEAR_COEFFICIENT * B * N * D + ATTENTION_COEFFICIENT * B * N**2 * model.heads
    return PartMemory(
        weights=16 * D**2 + cut * alpha * 12 * D**2,
        adapters=cut * alpha * 18 * D * r,
        gradients=cut * alpha * block,
        optimizer=cut * optimizer_slots * alpha * block,
        activations=B * N * D + cut * kept,
        input=0,
        codec=0,
    )


@runtime_checkable
class FlopsModel(Protocol):
    """FLOPs of one local step on both sides of a cut."""

    def __call__(
        self, model: ModelSpec, cut: int, batch: MiniBatch, trained: Trained = Trained.ADAPTERS
    ) -> StepFlops: ...


@runtime_checkable
class TrafficModel(Protocol):
    """Bytes of the payloads at a cut; at `cut = blocks` those of the whole model."""

    def __call__(
        self, model: ModelSpec, cut: int, batch: MiniBatch, trained: Trained = Trained.ADAPTERS
    ) -> SchemeTraffic: ...


@runtime_checkable
class MemoryModel(Protocol):
    """Bytes that a device holds at the peak of a local step; `cut = blocks`: the whole model."""

    def __call__(
        self,
        model: ModelSpec,
        cut: int,
        batch: MiniBatch,
        policy: MiniBatchPolicy = KEEP_WHOLE,
        *,
        optimizer_slots: int = 1,
        trained: Trained = Trained.ADAPTERS,
    ) -> PartMemory[float]: ...


@dataclass(frozen=True)
class Accounting:
    """One way to count. `paper`: the equations as published, defects included. `physical`:
    right. `weights`: how frozen weights are sent (None: as they are held)."""

    name: str
    flops: FlopsModel
    traffic: TrafficModel
    memory: MemoryModel
    weights: SentWeights | None = None

    def on_server(self, activation_memory: ActivationPolicy) -> "Accounting":
        """The same, with what a server computes a second time that holds its mini-batches so."""
        if activation_memory is ActivationPolicy.KEEP:
            return self
        return replace(self, flops=_CheckpointingServer(self.flops))


@dataclass(frozen=True)
class _CheckpointingServer:
    """The server's blocks run again before their backward; its head does not."""

    flops: FlopsModel

    def __call__(
        self, model: ModelSpec, cut: int, batch: MiniBatch, trained: Trained = Trained.ADAPTERS
    ) -> StepFlops:
        once = self.flops(model, cut, batch, trained)
        again = once.server_forward - once.server_head
        return replace(once, server_backward=once.server_backward + again)


PAPER_ACCOUNTING = Accounting("paper", paper_flops, paper_traffic, paper_memory)
PHYSICAL_ACCOUNTING = Accounting("physical", physical_flops, physical_traffic, device_memory)
ACCOUNTINGS = {each.name: each for each in (PAPER_ACCOUNTING, PHYSICAL_ACCOUNTING)}
