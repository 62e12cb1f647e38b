"""One side's adapters while a round goes on: a row for each device, until FedAvg merges them."""

from collections.abc import Sequence
from typing import final

from jaxtyping import Float
from torch import Tensor

from cutlayer.model.aggregate import fedavg
from cutlayer.train.state import OptimizerState, SideState


@final
class Side:
    """One side's adapters and optimiser state during a round, a row for each device."""

    def __init__(self, state: SideState, devices: int) -> None:
        self.rows = state.row.expand(devices, -1).clone()
        self.optimizer = {name: value.clone() for name, value in state.optimizer.items()}

    def gather(self, devices: Sequence[int]) -> Float[Tensor, "group parameter"]:
        """The rows of `devices` as a leaf that collects their gradient."""
        return self.rows[list(devices)].requires_grad_()

    def state_of(self, devices: Sequence[int]) -> OptimizerState:
        """The optimiser state of `devices`."""
        return {name: value[list(devices)] for name, value in self.optimizer.items()}

    def scatter(self, devices: Sequence[int], rows: Tensor, state: OptimizerState) -> None:
        """Put stepped rows and states back."""
        self.rows[list(devices)] = rows.detach()
        for name, value in state.items():
            self.optimizer[name][list(devices)] = value

    def merged(self, weights: Sequence[float]) -> SideState:
        """FedAvg of the rows; each device keeps its optimiser state."""
        return SideState(fedavg(self.rows, weights), self.optimizer)
