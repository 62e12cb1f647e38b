"""Where a part of a model is, and in which numbers its frozen base is held."""

from dataclasses import dataclass

import torch

from cutlayer.spec import Base

_HOST = torch.device("cpu")


@dataclass(frozen=True)
class Placement:
    """A part's device, and the numbers of its base. Adapters, gradients and optimisers are there
    too, in float32."""

    device: torch.device = _HOST
    base: Base = Base.FLOAT32

    @property
    def dtype(self) -> torch.dtype:
        """The type in which the base's weights are read."""
        return torch.float32 if self.base is Base.FLOAT32 else torch.bfloat16


ON_HOST = Placement()
