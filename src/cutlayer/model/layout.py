"""How the trainable values of one side lie in one flat row. Knows no model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cutlayer.errors import ModelError


@dataclass(frozen=True)
class Slot:
    """One trainable tensor in a row, e.g. `vit.layers.3.attention.q_proj.lora_A`."""

    name: str
    shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """Values in this tensor."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The order of the slots in a row of float32 values.

    A bank of devices is then a matrix [device, parameter], FedAvg a weighted mean of its rows, an
    optimiser a row-wise update, and a payload the bytes of one row.
    """

    slots: tuple[Slot, ...]

    @property
    def parameters(self) -> int:
        """Values in a row."""
        return sum(slot.parameters for slot in self.slots)

    def split(self, rows: Float[Tensor, "group parameter"]) -> dict[str, Tensor]:
        """Each slot of each row, [group, *shape].

        Views made by one `torch.split`, so that backward is one concatenation: slicing slot by
        slot would fill a whole row of zeros for each.
        """
        self._check(rows.shape[1])
        pieces = torch.split(rows, [slot.parameters for slot in self.slots], dim=1)
        return {
            slot.name: piece.view(-1, *slot.shape)
            for slot, piece in zip(self.slots, pieces, strict=True)
        }

    def named(self, row: Float[Tensor, "parameter"]) -> dict[str, Tensor]:
        """Each slot of one row, [*shape]; views."""
        self._check(row.shape[0])
        pieces = torch.split(row, [slot.parameters for slot in self.slots])
        return {
            slot.name: piece.view(slot.shape)
            for slot, piece in zip(self.slots, pieces, strict=True)
        }

    def join(self, named: Mapping[str, Tensor]) -> Float[Tensor, "parameter"]:
        """The float32 row that holds these slots; other names are ignored, since a folder or a
        merged mapping holds both sides.

        Raises ModelError for a slot that is missing or has another shape.
        """
        pieces = [self._piece(slot, named) for slot in self.slots]
        return torch.cat(pieces) if pieces else torch.zeros(0)

    @staticmethod
    def _piece(slot: Slot, named: Mapping[str, Tensor]) -> Tensor:
        if slot.name not in named:
            raise ModelError(
                f"the adapter has no values for {slot.name}; were other targets trained?"
            )
        value = named[slot.name]
        if tuple(value.shape) != slot.shape:
            raise ModelError(
                f"the adapter's {slot.name} has shape {tuple(value.shape)} where this model needs "
                f"{slot.shape}; use the rank, classes and model it was trained with"
            )
        return value.detach().to(torch.float32).reshape(-1)

    def _check(self, parameters: int) -> None:
        if parameters != self.parameters:
            raise ModelError(
                f"a row of {parameters} values does not fit a layout of {self.parameters}; "
                "device rows and server rows differ"
            )
