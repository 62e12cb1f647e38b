"""One side's adapters while a round goes on: a row for each device, or one that all share."""

from collections.abc import Sequence
from typing import final

from jaxtyping import Float
from torch import Tensor

from cutlayer.model.optimizer import Optimizer
from cutlayer.train.state import SideState


@final
class Side:
    """One side's adapters and optimiser state during a round.

    `rows` and the state's tensors have an entry for each device; `shared`: one entry, which every
    device reads and steps, one device at a time.
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

    def gather(self, devices: Sequence[int]) -> Float[Tensor, "group parameter"]:
        """The rows of `devices`, copied."""
        return self.rows[self._places(devices)]

    def step(
        self,
        devices: Sequence[int],
        gradients: Float[Tensor, "group parameter"],
        learning_rate: float,
    ) -> None:
        """Step the rows of `devices` by their gradients."""
        places = self._places(devices)
        state = {name: value[places] for name, value in self.optimizer.items()}
        rows, stepped = self._rule.step(self.rows[places], gradients, state, learning_rate)
        self.rows[places] = rows
        for name, value in stepped.items():
            self.optimizer[name][places] = value

    def _places(self, devices: Sequence[int]) -> list[int]:
        if not self._shared:
            return list(devices)
        assert len(devices) == 1, "a shared adapter is stepped by one device at a time"
        return [0]
