"""What a device must hold to train its part, as autograd really holds it.

Knows the sizes that `ModelSpec.activations` brings, and no tensors.
"""

from dataclasses import asdict, dataclass
from typing import Generic, TypeVar, cast

from cutlayer.cost.cut import check_held
from cutlayer.cost.traffic import TRAINED_BYTES
from cutlayer.errors import ConfigError
from cutlayer.spec import Activations, BatchBytes, Holding, MiniBatch, ModelSpec, Trained

Bytes = TypeVar("Bytes", int, float)


@dataclass(frozen=True)
class PartMemory(Generic[Bytes]):
    """Bytes by kind at the peak of a local step: whole where they were measured.

    `adapters` are none where all weights are trained: they are the weights. `gradients` are those
    of what is trained; `activations` what is kept for backward; `input` the mini-batch itself.
    """

    weights: Bytes
    adapters: Bytes
    optimizer: Bytes
    gradients: Bytes
    activations: Bytes
    input: Bytes

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
    *,
    optimizer_slots: int = 1,
    holding: Holding = Holding.KEEP,
    micro_batches: int = 1,
    in_flight: int = 1,
    trained: Trained = Trained.ADAPTERS,
) -> PartMemory[float]:
    """What a device with the embedding and blocks 1..cut holds [byte]; `cut = blocks`: the whole.

    `optimizer_slots`: values that the optimiser keeps for each trained one (0 SGD, 1 momentum,
    2 Adam); what is trained, its gradients and slots are float32. With all weights trained the
    activations are those of adapters on every layer, which are r values a layer and token more.
    The mini-batch is cut into
    `micro_batches`, of which at most `in_flight` are between their forward and their backward.
    For the peaks see `activation_bytes`. Not counted: the gradients that backward passes from layer
    to layer, and what the codec needs.
    Raises ConfigError: a cut, count or batch that is not; no `model.activations`.
    """
    check_held(model, cut)
    _check_counts(batch, optimizer_slots, micro_batches, in_flight)
    weights, adapters = model.device_parameters(cut), model.device_adapter_parameters(cut)
    weight_bytes, values = model.bytes_per_value, adapters
    if trained is Trained.WEIGHTS:
        weight_bytes, values, adapters = TRAINED_BYTES, weights, 0
    micro = MiniBatch(-(-batch.samples // micro_batches), batch.tokens)
    return PartMemory(
        weights=weight_bytes * weights,
        adapters=TRAINED_BYTES * adapters,
        gradients=TRAINED_BYTES * values,
        optimizer=TRAINED_BYTES * values * optimizer_slots,
        activations=activation_bytes(model, cut, micro, holding, in_flight),
        input=_activations(model).inputs.of(batch),
    )


def activation_bytes(
    model: ModelSpec, cut: int, batch: MiniBatch, holding: Holding, in_flight: int = 1
) -> float:
    """What the device part keeps for backward at its peak [byte], `in_flight` batches at a time.

    KEEP: all that each batch's forward left, from its end to its backward. CHECKPOINT: the inputs
    of all blocks, and all of one block of one batch: the peak is where backward has just computed
    the last block again. RECOMPUTE: nothing waits (the mini-batch is counted as input); the peak is
    where backward has computed one batch's forward again, as KEEP with one in flight.
    """
    held = _activations(model)
    outside = held.embedding.of(batch) + (held.head.of(batch) if cut == model.blocks else 0)
    if holding is Holding.CHECKPOINT:
        waiting = held.embedding.of(batch) + cut * block_input_bytes(model).of(batch)
        last = held.first_block if cut == 1 else held.block
        head = held.head.of(batch) if cut == model.blocks else 0
        return in_flight * (waiting + head) + last.beyond_input.of(batch)
    kept = outside + held.first_block.kept.of(batch) + (cut - 1) * held.block.kept.of(batch)
    return kept if holding is Holding.RECOMPUTE else in_flight * kept


def server_activation_bytes(model: ModelSpec, cut: int, batch: MiniBatch) -> float:
    """What the server part keeps of one mini-batch for backward [byte], without the loss."""
    held, blocks = _activations(model), model.blocks - cut
    first, rest = held.served_block.kept.of(batch), held.block.kept.of(batch)
    return first + (blocks - 1) * rest + held.head.of(batch)


def block_input_bytes(model: ModelSpec) -> BatchBytes:
    """The hidden states between two blocks: `b B N D`."""
    return BatchBytes(token=model.bytes_per_value * model.width)


def _activations(model: ModelSpec) -> Activations:
    if model.activations is None:
        raise ConfigError(
            f"nobody has counted what {model.name} keeps for backward; take a ModelSpec from"
            " model.describe or cost.parameters"
        )
    return model.activations


def _check_counts(
    batch: MiniBatch, optimizer_slots: int, micro_batches: int, in_flight: int
) -> None:
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
