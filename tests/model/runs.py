"""Forward and backward of whole and split models, as several tests compare them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cutlayer.model.described import AdapterSpec
from cutlayer.model.split import DevicePart, ServerPart, WholeModel
from cutlayer.spec import Task

Run = tuple[Tensor, dict[str, Tensor]]


def full_spec(task: Task) -> AdapterSpec:
    """Adapters wherever this task can have them."""
    return AdapterSpec(
        rank=2,
        alpha=4.0,
        patch_embedding=task == "image-classification",
        head=task != "causal-lm",
    )


def trained_row(part: DevicePart | ServerPart | WholeModel, seed: int = 4) -> Tensor:
    """A row in which every value, B too, is away from its initial one."""
    row = part.adapted.initial_row(seed=3)
    return row + 0.1 * torch.randn(row.shape, generator=torch.Generator().manual_seed(seed))


def samples(inputs: Mapping[str, Tensor]) -> int:
    """How many samples these inputs are."""
    return len(next(iter(inputs.values())))


def scalar(logits: Tensor) -> Tensor:
    """A number that depends on every logit differently."""
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(5))
    return (logits * weights).sum()


def run_whole(
    whole: WholeModel,
    row: Tensor,
    inputs: Mapping[str, Tensor],
    lengths: Sequence[int] | None,
) -> Run:
    """Logits and the gradient of every slot."""
    rows = row.unsqueeze(0).clone().requires_grad_()
    logits = whole.forward(rows, [samples(inputs)], inputs, lengths)
    scalar(logits).backward()
    return logits, whole.adapted.layout.named(gradient_of(rows)[0])


def run_parts(
    device: DevicePart,
    server: ServerPart,
    named: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor],
    lengths: Sequence[int] | None,
) -> Run:
    """The same over a cut: the activation goes up, its gradient comes down."""
    device_rows = device.adapted.layout.join(named).unsqueeze(0).requires_grad_()
    server_rows = server.adapted.layout.join(named).unsqueeze(0).requires_grad_()
    activation = device.forward(device_rows, [samples(inputs)], inputs)
    received = activation.detach().requires_grad_()
    logits = server.forward(server_rows, [samples(inputs)], received, lengths)
    scalar(logits).backward()
    activation.backward(gradient_of(received))
    return logits, {
        **device.adapted.layout.named(gradient_of(device_rows)[0]),
        **server.adapted.layout.named(gradient_of(server_rows)[0]),
    }


def gradient_of(leaf: Tensor) -> Tensor:
    """The gradient that backward left."""
    assert leaf.grad is not None
    return leaf.grad
