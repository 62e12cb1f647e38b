"""What a run carries from round to round: adapters, optimiser and codec states, and the amounts on
which the band is shared out."""

from dataclasses import astuple, dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cutlayer.planner.observed import Observed
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

    `observed`: the amounts of the last round, or those expected of the first. `streams`: what the
    codecs of all devices remember.
    """

    round: int
    virtual_time_s: float
    device: SideState
    server: SideState
    observed: Observed
    streams: Streams = field(default_factory=dict)


def observed_to_tensors(observed: Observed) -> dict[str, Tensor]:
    """One row a quantity, for the checkpoint."""
    return {"observed": torch.from_numpy(np.stack(astuple(observed)))}


def observed_from_tensors(tensors: dict[str, Tensor]) -> Observed:
    """The inverse of `observed_to_tensors`; other tensors are left out."""
    return Observed(*tensors["observed"].numpy())
