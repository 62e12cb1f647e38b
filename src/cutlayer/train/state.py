"""What a run carries from round to round: global adapters, optimiser states, codec states."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from cutlayer.train.exchange import Streams

OptimizerState = dict[str, Tensor]


@dataclass(frozen=True)
class SideState:
    """One side's adapters (one row) and optimiser state (first axis: device)."""

    row: Float[Tensor, " parameter"]
    optimizer: OptimizerState

    def tensors(self, side: str) -> dict[str, Tensor]:
        """Every tensor under a name, for the checkpoint."""
        return {
            f"{side}.row": self.row,
            **{f"{side}.optimizer.{name}": value for name, value in self.optimizer.items()},
        }

    @staticmethod
    def from_tensors(side: str, tensors: dict[str, Tensor]) -> "SideState":
        """The inverse of `tensors`."""
        prefix = f"{side}.optimizer."
        optimizer = {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix)
        }
        return SideState(tensors[f"{side}.row"], optimizer)


@dataclass(frozen=True)
class RunState:
    """Everything that decides the next round, seeds and data apart.

    `streams`: what the codecs of all devices remember.
    """

    round: int
    virtual_time_s: float
    device: SideState
    server: SideState
    streams: Streams = field(default_factory=dict)
