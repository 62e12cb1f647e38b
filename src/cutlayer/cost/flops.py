"""Floating-point operations of one local step, on the device and on the server.

Counts multiply-adds as two operations, and matrix products only (norms, activations and softmax
are left out, as in the paper). Knows nothing of compute rates.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cutlayer.errors import ConfigError
from cutlayer.spec import LinearShape, MiniBatch, ModelSpec


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


Accounting = Callable[[ModelSpec, int, MiniBatch], StepFlops]


def paper_flops(model: ModelSpec, cut: int, batch: MiniBatch) -> StepFlops:
    """The paper's count as printed: backward is twice forward, and the device pays for the head.

    With B samples, N tokens, width D and K classes a block takes `24BND^2 + 4BN^2D` forward; the
    device adds `2BNDK`. Prefer it only to compare with the paper: a frozen base needs no weight
    gradients, and the head is on the server. Source: SFT Section V-D.
    """
    _check_cut(model, cut)
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


def physical_flops(model: ModelSpec, cut: int, batch: MiniBatch) -> StepFlops:
    """What is really computed: adapters, a frozen base (no weight gradients), embedding, head.

    Forward of a linear layer on R rows: `2R(in*out + r(in+out))`. Backward: `2R*in*out` for the
    gradient of its input and `4Rr(in+out)` for the adapter. Attention: `4BN^2 D_a` forward, twice
    that backward. The first block's query, key and value pass no gradient to their input.
    """
    _check_cut(model, cut)
    rows = batch.samples * batch.tokens
    linear_forward = sum(_linear_forward(linear) for linear in model.block_linears) * rows
    linear_backward = sum(_linear_backward(linear) for linear in model.block_linears) * rows
    attention = 4 * batch.samples * batch.tokens**2 * model.heads * model.head_width
    forward, backward = linear_forward + attention, linear_backward + 2 * attention
    first = sum(_input_gradient(x) for x in model.block_linears if x.reads_block_input) * rows
    head = 2 * model.head_parameters * (rows if model.head_per_token else batch.samples)
    served = model.blocks - cut
    return StepFlops(
        device_forward=cut * forward + model.embedding_flops_per_token * rows,
        device_backward=cut * backward - first,
        server_forward=served * forward + head,
        server_backward=served * backward + head,
    )


ACCOUNTINGS: dict[str, Accounting] = {"paper": paper_flops, "physical": physical_flops}


def _linear_forward(linear: LinearShape) -> int:
    return 2 * (linear.inputs * linear.outputs + linear.adapter_parameters)


def _linear_backward(linear: LinearShape) -> int:
    return 2 * linear.inputs * linear.outputs + 4 * linear.adapter_parameters


def _input_gradient(linear: LinearShape) -> int:
    return 2 * linear.inputs * (linear.outputs + linear.rank)


def _check_cut(model: ModelSpec, cut: int) -> None:
    if not 1 <= cut <= model.blocks - 1:
        raise ConfigError(
            f"cut {cut} is outside 1..{model.blocks - 1}: {model.name} has {model.blocks} blocks,"
            " and each side needs at least one"
        )
