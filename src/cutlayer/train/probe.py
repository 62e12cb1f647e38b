"""Real tensors at the cut, and what becomes of the adapters' gradients when they are sent.

For judging a codec: mean squared error does not tell how well a model trains on decoded tensors,
the angle between true and resulting gradients does. Knows no codec and no file.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from cutlayer.data.batches import Batch
from cutlayer.model.loss import group_losses
from cutlayer.model.optimizer import AdamW
from cutlayer.model.split import DevicePart, ServerPart
from cutlayer.spec import Task
from cutlayer.train.inputs import GroupInputs, group_inputs


@dataclass(frozen=True, eq=False)
class Parts:
    """A split model."""

    task: Task
    device: DevicePart
    server: ServerPart


@dataclass(frozen=True, eq=False)
class Crossing:
    """What one local step sends over the cut, with the mini-batch and adapters it comes from."""

    batch: Batch
    device_row: Float[Tensor, " device_parameter"]
    server_row: Float[Tensor, " server_parameter"]
    activation: Float32[np.ndarray, "batch token width"]
    gradient: Float32[np.ndarray, "batch token width"]


def crossings(
    parts: Parts, batches: Iterable[Batch], seed: int, learning_rate: float
) -> Iterator[Crossing]:
    """Train one device on the batches, nothing compressed, with AdamW; yield what each step sends.

    Fresh adapters have B = 0, which makes half of their gradient zero: take a later crossing.
    """
    optimizer = AdamW(weight_decay=0.0)
    rows = [part.adapted.initial_row(seed)[None] for part in (parts.device, parts.server)]
    states = [optimizer.init(row) for row in rows]
    for batch in batches:
        device_row, server_row = (row.detach().requires_grad_() for row in rows)
        group = group_inputs([batch])
        activation = parts.device.forward(device_row, group.sizes, group.inputs)
        received = activation.detach().requires_grad_()
        _server_backward(parts, group, batch, server_row, received)
        gradient = _grad(received)
        torch.autograd.backward(activation, gradient)
        yield Crossing(
            batch, rows[0][0], rows[1][0], received.detach().numpy(), gradient.numpy().copy()
        )
        for side, row in enumerate((device_row, server_row)):
            rows[side], states[side] = optimizer.step(
                row.detach(), _grad(row), states[side], learning_rate
            )


def server_gradient(
    parts: Parts, crossing: Crossing, activation: Float32[np.ndarray, "batch token width"]
) -> Float[Tensor, " parameter"]:
    """The server-side adapter's gradient when the server receives `activation`."""
    row = crossing.server_row[None].clone().requires_grad_()
    received = torch.from_numpy(activation.copy()).requires_grad_()
    _server_backward(parts, group_inputs([crossing.batch]), crossing.batch, row, received)
    return _grad(row)[0]


def device_gradient(
    parts: Parts, crossing: Crossing, gradient: Float32[np.ndarray, "batch token width"]
) -> Float[Tensor, " parameter"]:
    """The device-side adapter's gradient when the device receives `gradient`."""
    row = crossing.device_row[None].clone().requires_grad_()
    group = group_inputs([crossing.batch])
    activation = parts.device.forward(row, group.sizes, group.inputs)
    torch.autograd.backward(activation, torch.from_numpy(gradient.copy()))
    return _grad(row)[0]


def _server_backward(
    parts: Parts, group: GroupInputs, batch: Batch, row: Tensor, received: Tensor
) -> None:
    logits = parts.server.forward(row, group.sizes, received, group.lengths)
    labels = torch.from_numpy(batch.labels)
    torch.autograd.backward(group_losses(parts.task, logits, labels, group.sizes).sum())


def _grad(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad
