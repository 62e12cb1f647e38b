"""What the trainer, the network runtime and the planner ask of a codec.

Knows no codec: each is in a file of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a packet held: `tensor` is zero past the first `lengths[i]` tokens of sample i."""

    tensor: Float32[np.ndarray, "batch token width"]
    lengths: tuple[int, ...]


class Codec(ABC):
    """A lossy or lossless map from an activation (or its gradient) to a packet and back.

    A codec is a value: no call changes it, and equal tensor, lengths and generator state give equal
    bytes. What a receiver needs beyond the shape is in the packet, so the settings of the two ends
    may differ; only their `name` must agree.
    """

    name: ClassVar[str]

    @abstractmethod
    def encode(
        self,
        tensor: Float32[np.ndarray, "batch token width"],
        lengths: Sequence[int] | None,
        rng: np.random.Generator,
    ) -> bytes:
        """The packet of `tensor`.

        `lengths`: how many tokens of each sample count; those after them are padding, never coded
        and allowed to hold anything. None: all count. `rng` draws the roundings of a stochastic
        codec.

        Raises PacketError: not float32, not three dimensions, one of them 0, a length that does not
        fit, or a coded value that is not finite.
        """

    @abstractmethod
    def decode(self, packet: bytes, shape: tuple[int, int, int]) -> Decoded:
        """The tensor of `packet`, which must be of `shape`, and its samples' lengths.

        Memory is proportional to `shape` and to the packet at hand, whatever the packet claims.

        Raises PacketError: anything that is not a valid packet of this codec and shape.
        """

    @abstractmethod
    def expected_bytes(self, shape: tuple[int, int, int]) -> float:
        """The length [bytes] to plan with for a packet of `shape` without padding.

        A codec whose length depends on the values assumes independent Laplace values.
        """
