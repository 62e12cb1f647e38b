"""What a local step computes and sends: FLOPs and bytes, by the cut.

Counts multiply-adds as two operations, and matrix products only (norms, activations and softmax are
left out, as in the paper); bytes before any compression, without frames, labels and checksums.
Knows no compute rate, no link and no codec.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cutlayer.errors import ConfigError
from cutlayer.spec import ActivationPolicy, Base, BlockKind, MiniBatch, ModelSpec, Trained

# what is trained is float32, and so is what is sent
TRAINED_BYTES = 4
ACTIVATION_BYTES = 4


def check_split(model: ModelSpec, cut: int) -> None:
    """Raise ConfigError unless both sides get at least one block."""
    if not 1 <= cut <= model.blocks - 1:
        raise ConfigError(
            f"cut {cut} is outside 1..{model.blocks - 1}: {model.name} has {model.blocks} blocks,"
            " and each side needs at least one"
        )


def check_device_part(model: ModelSpec, cut: int) -> None:
    """Raise ConfigError unless a device can hold the first `cut` blocks; all of them is the whole
    model, head included."""
    if not 1 <= cut <= model.blocks:
        raise ConfigError(
            f"cut {cut} is outside 1..{model.blocks}: {model.name} has {model.blocks} blocks"
        )


@dataclass(frozen=True)
class StepFlops:
    """One mini-batch's FLOPs by whose part and which pass; `server_head`: the part of the server's
    forward that is no block's."""

    device_forward: float
    device_backward: float
    server_forward: float
    server_backward: float
    server_head: float = 0.0

    @property
    def server(self) -> float:
        """Forward and backward of the server part."""
        return self.server_forward + self.server_backward

    @property
    def total(self) -> float:
        """Forward and backward of both parts."""
        return self.device_forward + self.device_backward + self.server


def paper_flops(
    model: ModelSpec, cut: int, batch: MiniBatch, trained: Trained = Trained.ADAPTERS
) -> StepFlops:
    """The paper's count as published: backward is twice forward, and the device pays for the head.

    With B samples, N tokens, width D and K classes a block takes `24BND^2 + 4BN^2D` forward; the
    device adds `2BNDK`. It is the same whatever is trained: the published backward is that of full
    fine-tuning, though a frozen base needs no weight gradients; and the head is on the server.
    Prefer it only to compare with the paper. Source: SFT Section V-D.
    """
    check_split(model, cut)
    B, N, D, K = batch.samples, batch.tokens, model.width, model.classes
    block = 24 * B * N * D**2 + 4 * B * N**2 * D
    head = 2 * B * N * D * K
    served = model.blocks - cut
    return StepFlops(
        device_forward=cut * block + head,
        device_backward=2 * (cut * block + head),
        server_forward=served * block,
        server_backward=2 * (served * block + head),
    )


def physical_flops(
    model: ModelSpec, cut: int, batch: MiniBatch, trained: Trained = Trained.ADAPTERS
) -> StepFlops:
    """What is really computed: adapters, a frozen base (no weight gradients), embedding, head.

    Forward of a linear layer on R rows: `2R(in*out + r(in+out))`. Backward: `2R*in*out` for the
    gradient of its input and `4Rr(in+out)` for the adapter. Attention of inner width D_a:
    `4BN^2 D_a` forward, `attention_backward` times that backward. What nothing trained precedes in
    the first block passes no gradient on: where the device's part is frozen, the server's first
    block.

    With all weights trained a layer takes `2R*in*out` forward and `4R*in*out` backward, and only
    the embedding passes no gradient on.
    """
    check_split(model, cut)
    rows = batch.samples * batch.tokens
    attention = 4 * batch.samples * batch.tokens**2 * model.heads * model.head_width
    attention_backward = model.attention_backward * attention
    work = _with_adapters(model) if trained is Trained.ADAPTERS else _with_all_weights(model)

    def forward(first: int, end: int) -> float:
        return sum(
            kind.count * (work.block_forward(kind) * rows + attention)
            for kind in model.kinds(first, end)
        )

    def backward(first: int, end: int) -> float:
        return sum(
            kind.count * (work.block_backward(kind) * rows + attention_backward)
            for kind in model.kinds(first, end)
        )

    # nothing is trained before it, and no gradient goes there
    begin = model.first_trained if trained is Trained.ADAPTERS else 0
    spared = float(work.first_spared * rows)
    if not work.first_attention_trained:
        spared += attention_backward
    frozen = begin >= cut
    head_rows = rows if model.head_per_token else batch.samples
    head = 2 * model.head_parameters * head_rows
    return StepFlops(
        device_forward=forward(0, cut) + work.embedding_forward * rows,
        device_backward=(
            0.0 if frozen else backward(begin, cut) - spared + work.embedding_backward * rows
        ),
        server_forward=forward(cut, model.blocks) + head,
        server_backward=backward(max(begin, cut), model.blocks)
        - (spared if frozen else 0.0)
        + head
        + 2 * work.head_trained * head_rows,
        server_head=head,
    )


def recomputed_flops(
    model: ModelSpec, batch: MiniBatch, flops: StepFlops, activation_memory: ActivationPolicy
) -> float:
    """What a device computes a second time before its backward, by how it holds a mini-batch.

    KEEP: nothing. CHECKPOINT: the blocks' forward, one by one. RECOMPUTE: the embedding's too.
    `flops` are those of the step by either accounting; the embedding is the model's own.
    """
    match activation_memory:
        case ActivationPolicy.KEEP:
            return 0.0
        case ActivationPolicy.RECOMPUTE:
            return flops.device_forward
        case ActivationPolicy.CHECKPOINT:
            per_token = model.embedding_flops_per_token + model.embedding_adapter_flops_per_token
            return max(flops.device_forward - per_token * batch.samples * batch.tokens, 0.0)


@dataclass(frozen=True)
class _PerToken:
    """Operations per token; `first_spared`: what the first block's backward leaves out;
    `head_trained`: values of the head that have gradients."""

    block_forward: Callable[[BlockKind], int]
    block_backward: Callable[[BlockKind], int]
    first_spared: int
    first_attention_trained: bool
    embedding_forward: int
    embedding_backward: int
    head_trained: int


def _with_adapters(model: ModelSpec) -> _PerToken:
    experts, adapter = model.expert_flops_per_token, model.embedding_adapter_flops_per_token
    untrained = [linear for linear in model.block_linears if linear.reads_block_input]
    return _PerToken(
        block_forward=lambda kind: experts + _base_flops(kind) + 2 * kind.adapter_parameters,
        block_backward=lambda kind: experts + _base_flops(kind) + 4 * kind.adapter_parameters,
        first_spared=sum(2 * x.inputs * (x.outputs + x.rank) for x in untrained),
        first_attention_trained=model.first_attention_trained,
        embedding_forward=model.embedding_flops_per_token + adapter,
        embedding_backward=2 * adapter,
        head_trained=model.head_adapter_parameters,
    )


def _with_all_weights(model: ModelSpec) -> _PerToken:
    experts = model.expert_flops_per_token
    return _PerToken(
        block_forward=lambda kind: experts + _base_flops(kind),
        block_backward=lambda kind: 2 * (experts + _base_flops(kind)),
        first_spared=0,
        first_attention_trained=True,
        embedding_forward=model.embedding_flops_per_token,
        embedding_backward=model.embedding_flops_per_token,
        head_trained=model.head_parameters,
    )


def _base_flops(kind: BlockKind) -> int:
    return sum(2 * linear.inputs * linear.outputs for linear in kind.linears)


# Weights are sent losslessly coded (`codec.weights`): bytes sent over bytes held, scales included.
# Measured on the device parts of DINOv2-small, MiniLM-L6 and SmolLM2-135M: 0.82 to 0.83, 0.66 to
# 0.67, 0.86 to 0.92, 0.86 to 0.95 (docs/network.md).
CODED_SHARES: Mapping[Base, float] = MappingProxyType(
    {Base.FLOAT32: 0.83, Base.BFLOAT16: 0.67, Base.INT8: 0.88, Base.NF4: 0.91}
)
# float32 that came from bfloat16 is sent as bfloat16 is
_FROM_BFLOAT16 = CODED_SHARES[Base.BFLOAT16] / 2


@dataclass(frozen=True)
class SentWeights:
    """How a planner counts what is sent of frozen weights, whose codes nobody has made yet.

    `checkpoint`: the numbers of the model's file, where they are fewer than float32's.
    `devices_have_them`: nothing is sent.
    """

    checkpoint: Base = Base.FLOAT32
    devices_have_them: bool = False

    def bytes(self, model: ModelSpec, cut: int) -> float:
        """Of the devices' part in their base; with `cut = blocks` of the whole."""
        if self.devices_have_them:
            return 0.0
        # what a base does not pack, it rounds to bfloat16
        rounded = Base.BFLOAT16 if model.device_base is not Base.FLOAT32 else self.checkpoint

        def share(base: Base) -> float:
            from_bfloat16 = base is Base.FLOAT32 and rounded is Base.BFLOAT16
            return _FROM_BFLOAT16 if from_bfloat16 else CODED_SHARES[base]

        return model.device_weight_bytes(cut, share)


@dataclass(frozen=True)
class SchemeTraffic:
    """Bytes of each payload: what is broadcast first, what a round merges, what a local step sends.

    `activation_bytes` and `gradient_bytes` are one mini-batch's at the cut. `adapters_in_model`:
    whether `model_bytes` has the adapters in it already, which are then not broadcast beside it.
    """

    model_bytes: float
    adapter_bytes: float
    activation_bytes: float
    gradient_bytes: float
    adapters_in_model: bool = False


def physical_traffic(
    model: ModelSpec, cut: int, batch: MiniBatch, trained: Trained = Trained.ADAPTERS
) -> SchemeTraffic:
    """What is really sent at `cut`; at `cut = blocks` the whole model and no activation.

    Model: embedding and blocks as stored, without adapters (they are broadcast each round, and
    counted in `adapter_bytes`). Adapters: device-side, float32; with all weights trained, every
    weight that the device holds. Activation and gradient: `4 B N D`.
    Raises ConfigError for a cut that is not.
    """
    check_device_part(model, cut)
    weights = model.device_parameters(cut)
    exchanged = weights if trained is Trained.WEIGHTS else model.device_adapter_parameters(cut)
    activation = 0 if cut == model.blocks else batch.samples * batch.tokens * model.width
    return SchemeTraffic(
        model_bytes=model.device_weight_bytes(cut),
        adapter_bytes=TRAINED_BYTES * exchanged,
        activation_bytes=ACTIVATION_BYTES * activation,
        gradient_bytes=ACTIVATION_BYTES * activation,
    )


def paper_traffic(
    model: ModelSpec, cut: int, batch: MiniBatch, trained: Trained = Trained.ADAPTERS
) -> SchemeTraffic:
    """Section V-E as published, with b bytes a value, width D, rank r, l blocks on the device.

    `Psi(l) = b l (18Dr + 12D^2 + (P^2 C + N + 3) D)`: the embedding is counted in every block
    (defect 11; here it is the model's own, which for a ViT is that term). `Psi^L(l) = 2 l B D r`
    is taken as bytes, with B the batch (defect 12). The activation is `BND`, here of b bytes each,
    which the paper leaves out (defect 16). With all weights trained the adapter is `Psi(l)` too, of
    which the paper says nothing. Source: SFT Section V-E.
    """
    check_device_part(model, cut)
    b, B, D, r = model.bytes_per_value, batch.samples, model.width, model.rank
    psi = b * cut * (18 * D * r + 12 * D**2 + model.embedding_parameters)
    activation = 0 if cut == model.blocks else b * B * batch.tokens * D
    return SchemeTraffic(
        model_bytes=psi,
        adapter_bytes=psi if trained is Trained.WEIGHTS else 2 * cut * B * D * r,
        activation_bytes=activation,
        gradient_bytes=activation,
        adapters_in_model=True,
    )
