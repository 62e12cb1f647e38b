"""How the trainable values of one side lie in one flat row. Knows no model."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Slot:
    """One trainable tensor in a row, e.g. `vit.layers.3.attention.q_proj.lora_A`."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The order of the slots in a row of float32 values: a bank of devices is a matrix
    [device, parameter], FedAvg a weighted mean of its rows, a payload the bytes of one row.
    """

    slots: tuple[Slot, ...]

    @property
    def parameters(self) -> int:
        """Values in a row."""
        raise NotImplementedError

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as sent: float32."""
        raise NotImplementedError

    def split(self, rows: Float[Tensor, "group parameter"]) -> dict[str, Tensor]:
        """Each slot of each row, [group, *shape]; views, whose gradient is one concatenation."""
        raise NotImplementedError

    def named(self, row: Float[Tensor, "parameter"]) -> dict[str, Tensor]:
        """Each slot of one row, [*shape]."""
        raise NotImplementedError

    def join(self, named: Mapping[str, Tensor]) -> Float[Tensor, "parameter"]:
        """The row that holds these slots; names of other slots are ignored (a folder holds both
        sides). Raises ModelError for a missing slot or another shape."""
        raise NotImplementedError
