"""What passes from hand to hand while a group of devices works on one micro-batch each."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from cutlayer.data.batches import Batch
from cutlayer.model.holding import Pending
from cutlayer.spec import IGNORED_LABEL, MiniBatch
from cutlayer.train.exchange import Received
from cutlayer.train.inputs import GroupInputs


@dataclass
class MicroBatch:
    """A group of devices' micro-batch `micro` of local step `number`, and what became of it.

    `weights`: the part of each device's loss that it carries, its labels over the mini-batch's.
    """

    number: int
    micro: int
    devices: tuple[int, ...]
    batches: list[Batch]
    samples: list[tuple[int, ...]]
    weights: list[float]
    group: GroupInputs
    device_rows: Float[Tensor, "group device_parameter"]
    server_rows: Float[Tensor, "group server_parameter"]
    pending: Pending | None = None
    received: list[Received] = field(default_factory=list)
    labels: Tensor | None = None
    gradient: Float[Tensor, "batch token width"] | None = None

    @property
    def held(self) -> Pending:
        """What the device holds between forward and backward."""
        assert self.pending is not None, "a device's forward comes before its other steps"
        return self.pending

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
        return own if self.batches[place].lengths is None else own[:, : self.tokens(place)]

    def tokens(self, place: int) -> int:
        """Tokens of the device's micro-batch, padded to its own longest."""
        lengths = self.batches[place].lengths
        return self.held.shape[1] if lengths is None else max(lengths)

    def shape(self, place: int) -> MiniBatch:
        """The `place`-th device's samples and tokens, as the cost models take them."""
        return MiniBatch(self.group.sizes[place], self.tokens(place))


@dataclass(frozen=True)
class Share:
    """One device's part of a mini-batch: sample numbers, their batch, its part of the loss."""

    samples: tuple[int, ...]
    batch: Batch
    weight: float


def shares(
    samples: Int[np.ndarray, " sample"],
    parts: int,
    make: Callable[[Int[np.ndarray, " part"]], Batch],
) -> list[Share | None]:
    """A mini-batch in `parts` micro-batches that differ by one sample at most.

    Weights are each one's labels over all (one a sample, or one a predicted token), so that the
    weighted mean losses sum to the mini-batch's. None where there are fewer samples than parts.
    """
    pieces = [piece for piece in np.array_split(samples, parts) if len(piece)]
    batches = [make(piece) for piece in pieces]
    counts = [_counted_labels(batch) for batch in batches]
    total = sum(counts)
    found: list[Share | None] = [
        Share(tuple(piece.tolist()), batch, count / total if total else 1 / len(pieces))
        for piece, batch, count in zip(pieces, batches, counts, strict=True)
    ]
    return found + [None] * (parts - len(found))


def _counted_labels(batch: Batch) -> int:
    """Labels that the batch's mean loss is over."""
    labels = batch.labels if batch.labels.ndim == 1 else batch.labels[:, 1:]
    return int((labels != IGNORED_LABEL).sum())
