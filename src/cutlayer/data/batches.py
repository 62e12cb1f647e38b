"""Mini-batches: which samples a device uses at its local step s, and what they become.

A plan is a pure function of (seed, device, step): a resumed run needs no state to go on. Knows no
tensors; `images` and `text` make the arrays.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int, Int64

from cutlayer.data.samples import Samples
from cutlayer.errors import DataError

_ORDER_STREAM = 0x0BA7C4  # keeps these permutations apart from other streams of the same seed


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """The order in which one device goes through its samples.

    `samples` are the device's indices into the split, as `partition` deals them. Each epoch is a
    fresh permutation keyed by (seed, device, epoch); its last mini-batch may be smaller. Raises
    `DataError` without samples or with batches of none.
    """

    samples: Int[np.ndarray, " sample"]
    batch_size: int
    seed: int
    device: int
    # the epoch asked for last: every step of an epoch cuts from one permutation
    _order: dict[int, Int[np.ndarray, " sample"]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        if not len(self.samples) or self.batch_size < 1:
            raise DataError(
                f"device {self.device} has {len(self.samples)} samples in batches of "
                f"{self.batch_size}: both must be at least 1"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Local steps that see every sample once, `ceil(samples / batch_size)`."""
        return -(-len(self.samples) // self.batch_size)

    def indices(self, step: int) -> Int[np.ndarray, " row"]:
        """The split's indices that make up the mini-batch of local step `step` (0, 1, ...),
        counted over the whole run."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._shuffled(epoch)[place * self.batch_size : (place + 1) * self.batch_size]

    def _shuffled(self, epoch: int) -> Int[np.ndarray, " sample"]:
        if epoch not in self._order:
            draw = np.random.default_rng([_ORDER_STREAM, self.seed, self.device, epoch])
            shuffled = draw.permutation(self.samples)
            shuffled.flags.writeable = False
            self._order.clear()
            self._order[epoch] = shuffled
        return self._order[epoch]


@dataclass(frozen=True, eq=False)
class Batch:
    """A mini-batch as the model's forward takes it.

    `inputs` by the model's argument names: `pixel_values` float32 [row, 3, height, width], or
    `input_ids` and `attention_mask` int64 [row, token]. `lengths`: tokens of each row without its
    padding (None for images). `labels`: class of each row [row]; for language modelling the ids
    themselves [row, token], -100 at padding (the model shifts them).
    """

    inputs: dict[str, np.ndarray]
    lengths: tuple[int, ...] | None
    labels: Int64[np.ndarray, " row"] | Int64[np.ndarray, "row token"]


class BatchMaker(ABC):
    """Turns samples into one mini-batch. `images.ImageBatches`, `text.TextBatches` and
    `text.BlockBatches` do."""

    @abstractmethod
    def make(self, samples: Samples, indices: Int[np.ndarray, " row"]) -> Batch:
        """The mini-batch of the samples at `indices`, rows in that order.

        Raises `DataError` when a sample cannot be read or is of another kind.
        """
