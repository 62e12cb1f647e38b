"""What a device must hold to train its part, measured; and the whole model, for comparison.

Saved tensors are counted as autograd really keeps them for one mini-batch of the largest kind.
"""

from dataclasses import asdict, dataclass

import torch

from cutlayer.data.batches import Batch
from cutlayer.model.loss import group_losses
from cutlayer.model.memory import SavedBytes
from cutlayer.train.inputs import group_inputs
from cutlayer.train.setup import Setup
from cutlayer.train.state import RunState, SideState

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class PartMemory:
    """Bytes at the peak of a local step: when forward has ended and backward begins."""

    weights: int
    adapters: int
    optimizer: int
    gradients: int
    activations: int
    input: int

    @property
    def total(self) -> int:
        """All of them together."""
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Memory:
    """A device's part, and what one device would need for the whole model."""

    device: PartMemory
    unsplit_bytes: int


def measure_memory(setup: Setup, state: RunState) -> Memory:
    """Run one mini-batch of the device with most samples a step through both parts.

    The state is not changed. The unsplit figure is both parts on one machine, for the same
    mini-batch.
    """
    batch = _largest_batch(setup)
    group = group_inputs([batch])
    rows = state.device.row[None].clone().requires_grad_()
    kept = [*setup.device_part.adapted.tensors, rows]
    with SavedBytes(exclude=[*kept, *group.inputs.values()]) as saved:
        activation = setup.device_part.forward(rows, group.sizes, group.inputs)
    device = _part(setup.device_part.adapted.bytes, state.device, saved.bytes, batch)
    received = activation.detach().requires_grad_()
    server_rows = state.server.row[None].clone().requires_grad_()
    with SavedBytes(exclude=[*setup.server_part.adapted.tensors, server_rows]) as saved:
        logits = setup.server_part.forward(server_rows, group.sizes, received, group.lengths)
        group_losses(setup.task, logits, torch.from_numpy(batch.labels), group.sizes)
    server = _part(setup.server_part.adapted.bytes, state.server, saved.bytes, None)
    return Memory(device, device.total + server.total)


def _largest_batch(setup: Setup) -> Batch:
    plan = max((device.plan for device in setup.devices), key=lambda plan: len(plan.indices(0)))
    return setup.batches.make(setup.train, plan.indices(0))


def _part(weights: int, side: SideState, saved_bytes: int, batch: Batch | None) -> PartMemory:
    adapters = side.row.numel() * _FLOAT_BYTES
    devices = max((len(value) for value in side.optimizer.values()), default=1)
    optimizer = sum(v.numel() * v.element_size() for v in side.optimizer.values()) // devices
    inputs = 0 if batch is None else sum(array.nbytes for array in batch.inputs.values())
    return PartMemory(weights, adapters, optimizer, adapters, saved_bytes, inputs)
