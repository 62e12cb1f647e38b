"""One side's adapters while a round goes on: a row for each device, or one that all share."""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from cutlayer.model.optimizer import Optimizer
from cutlayer.train.state import SideState


@final
class Side:
    """One side's adapters and optimiser state during a round.

    `rows` and the state's tensors have an entry for each device; `shared`: one entry, which every
    device reads and steps, one device at a time. `collected`: by place, the gradient of the
    micro-batches since its last step.
    """

    def __init__(
        self, state: SideState, devices: int, optimizer: Optimizer, *, shared: bool
    ) -> None:
        self._rule = optimizer
        self._shared = shared
        self.rows = state.row.expand(1 if shared else devices, -1).clone()
        # a round that starts without a state starts afresh
        old = state.optimizer or optimizer.init(self.rows)
        self.optimizer = {name: value.clone() for name, value in old.items()}
        self.collected: dict[int, Tensor] = {}

    def gather(self, devices: Sequence[int]) -> Float[Tensor, "group parameter"]:
        """The rows of `devices`, copied."""
        return self.rows[self._places(devices)]

    def collect(self, devices: Sequence[int], gradients: Float[Tensor, "group parameter"]) -> None:
        """Add one micro-batch's gradients to those that the next step of `devices` takes."""
        for place, gradient in zip(self._places(devices), gradients, strict=True):
            self.collected.setdefault(place, torch.zeros_like(gradient)).add_(gradient)

    def step(self, devices: Sequence[int], learning_rate: float) -> None:
        """Step the rows of `devices` by their collected gradients."""
        places = self._places(devices)
        gradients = torch.stack([self.collected.pop(place) for place in places])
        state = {name: value[places] for name, value in self.optimizer.items()}
        rows, stepped = self._rule.step(self.rows[places], gradients, state, learning_rate)
        self.rows[places] = rows
        for name, value in stepped.items():
            self.optimizer[name][places] = value

    def renew(self, device: int, row: Float[Tensor, " parameter"]) -> None:
        """Let `device` begin again at `row`, its optimiser afresh, what it collected forgotten."""
        (place,) = self._places((device,))
        self.collected.pop(place, None)
        self.rows[place] = row
        for name, value in self._rule.init(self.rows[place : place + 1]).items():
            self.optimizer[name][place : place + 1] = value

    def _places(self, devices: Sequence[int]) -> list[int]:
        if not self._shared:
            return list(devices)
        assert len(devices) == 1, "a shared adapter is stepped by one device at a time"
        return [0]
