"""Floating-point operations of one local step, on the device and on the server.

Counts multiply-adds as two operations, and matrix products only (norms, activations and softmax
are left out, as in the paper). Knows nothing of compute rates.
"""

from dataclasses import dataclass

from cutlayer.cost.cut import check_split
from cutlayer.spec import Holding, LinearShape, MiniBatch, ModelSpec, Trained


@dataclass(frozen=True)
class StepFlops:
    """One mini-batch's FLOPs by whose part and which pass."""

    device_forward: float
    device_backward: float
    server_forward: float
    server_backward: float

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
    """The paper's count as printed: backward is twice forward, and the device pays for the head.

    With B samples, N tokens, width D and K classes a block takes `24BND^2 + 4BN^2D` forward; the
    device adds `2BNDK`. It is the same whatever is trained: the printed backward is that of full
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
    the first block passes no gradient on.

    With all weights trained a layer takes `2R*in*out` forward and `4R*in*out` backward, and only
    the embedding passes no gradient on.
    """
    check_split(model, cut)
    rows = batch.samples * batch.tokens
    attention = 4 * batch.samples * batch.tokens**2 * model.heads * model.head_width
    attention_backward = model.attention_backward * attention
    work = _with_adapters(model) if trained is Trained.ADAPTERS else _with_all_weights(model)
    forward = work.block_forward * rows + attention
    backward = work.block_backward * rows + attention_backward
    spared = float(work.first_spared * rows)
    if not work.first_attention_trained:
        spared += attention_backward
    head_rows = rows if model.head_per_token else batch.samples
    head = 2 * model.head_parameters * head_rows
    served = model.blocks - cut
    return StepFlops(
        device_forward=cut * forward + work.embedding_forward * rows,
        device_backward=cut * backward - spared + work.embedding_backward * rows,
        server_forward=served * forward + head,
        server_backward=served * backward + head + 2 * work.head_trained * head_rows,
    )


def recomputed_flops(
    model: ModelSpec, batch: MiniBatch, flops: StepFlops, holding: Holding
) -> float:
    """What a device computes a second time before its backward, by how it holds a mini-batch.

    KEEP: nothing. CHECKPOINT: the blocks' forward, one by one. RECOMPUTE: the embedding's too.
    `flops` are those of the step by either accounting; the embedding is the model's own.
    """
    match holding:
        case Holding.KEEP:
            return 0.0
        case Holding.RECOMPUTE:
            return flops.device_forward
        case Holding.CHECKPOINT:
            per_token = model.embedding_flops_per_token + model.embedding_adapter_flops_per_token
            return max(flops.device_forward - per_token * batch.samples * batch.tokens, 0.0)


@dataclass(frozen=True)
class _PerToken:
    """Operations per token; `first_spared`: what the first block's backward leaves out;
    `head_trained`: values of the head that have gradients."""

    block_forward: int
    block_backward: int
    first_spared: int
    first_attention_trained: bool
    embedding_forward: int
    embedding_backward: int
    head_trained: int


def _with_adapters(model: ModelSpec) -> _PerToken:
    linears, adapter = model.block_linears, model.embedding_adapter_flops_per_token
    untrained = [linear for linear in linears if linear.reads_block_input]
    return _PerToken(
        block_forward=sum(_base(x) + 2 * x.adapter_parameters for x in linears),
        block_backward=sum(_base(x) + 4 * x.adapter_parameters for x in linears),
        first_spared=sum(_base(x) + 2 * x.inputs * x.rank for x in untrained),
        first_attention_trained=model.first_attention_trained,
        embedding_forward=model.embedding_flops_per_token + adapter,
        embedding_backward=2 * adapter,
        head_trained=model.head_adapter_parameters,
    )


def _with_all_weights(model: ModelSpec) -> _PerToken:
    block = sum(_base(linear) for linear in model.block_linears)
    return _PerToken(
        block_forward=block,
        block_backward=2 * block,
        first_spared=0,
        first_attention_trained=True,
        embedding_forward=model.embedding_flops_per_token,
        embedding_backward=model.embedding_flops_per_token,
        head_trained=model.head_parameters,
    )


def _base(linear: LinearShape) -> int:
    return 2 * linear.inputs * linear.outputs
