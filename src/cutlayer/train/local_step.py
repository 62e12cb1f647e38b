"""What passes from hand to hand within one local step of a group of devices."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from cutlayer.data.batches import Batch
from cutlayer.train.exchange import Received
from cutlayer.train.inputs import GroupInputs


@dataclass
class LocalStep:
    """What a group of devices has in its hands during one local step."""

    number: int
    devices: tuple[int, ...]
    batches: list[Batch]
    samples: list[tuple[int, ...]]
    group: GroupInputs
    device_rows: Float[Tensor, "group parameter"] | None = None
    activation: Float[Tensor, "batch token width"] | None = None
    received: list[Received] = field(default_factory=list)
    labels: Tensor | None = None
    gradient: Float[Tensor, "batch token width"] | None = None

    @property
    def received_lengths(self) -> tuple[int, ...] | None:
        """Tokens that count in each of the group's samples, as the server reads them (None:
        images)."""
        if self.group.lengths is None:
            return None
        return tuple(length for part in self.received for length in part.lengths)

    def rows_of(self, tensor: Tensor, place: int) -> Tensor:
        """The rows of the group's `place`-th device, without the padding that others needed."""
        first = sum(self.group.sizes[:place])
        own = tensor[first : first + self.group.sizes[place]]
        return own if self.batches[place].lengths is None else own[:, : self.tokens(place, own)]

    def tokens(self, place: int, activation: Tensor) -> int:
        """Tokens of the device's mini-batch, padded to its own longest."""
        lengths = self.batches[place].lengths
        return activation.shape[1] if lengths is None else max(lengths)
