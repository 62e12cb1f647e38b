"""What the trainer, the network runtime and the planner ask of a codec.

Knows no codec: each is in a file of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Shaped

from cutlayer.codec.kernels.kernels import Array

# What one end of a stream remembers between packets, as arrays by name: never changed in place, so
# that a state may be kept, compared and put into a checkpoint; large ones are where the codec's
# values live. A stream starts from EMPTY.
CodecState = Mapping[str, Shaped[Array, "..."]]
EMPTY: CodecState = MappingProxyType({})


class Direction(IntEnum):
    """Which way a tensor goes; part of the key of its random stream."""

    UP = 0
    DOWN = 1


@dataclass(frozen=True)
class Stream:
    """What the two ends of one device's packets in one direction remember."""

    sender: CodecState = field(default_factory=dict)
    receiver: CodecState = field(default_factory=dict)


Streams = Mapping[tuple[int, Direction], Stream]


@dataclass(frozen=True, eq=False)
class Encoded:
    """A packet, and the sender's state after it."""

    packet: bytes
    state: CodecState


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a packet held, and the receiver's state after it.

    `tensor` is zero past the first `lengths[i]` tokens of sample i.
    """

    tensor: Float32[Array, "..."]
    lengths: tuple[int, ...]
    state: CodecState


class Codec(ABC):
    """A lossy or lossless map from an activation (or its gradient) to a packet and back.

    A codec is a value: no call changes it, and equal tensor, lengths, state and generator state
    give equal bytes. A stream is the packets of one device in one direction; each of its two ends
    hands the state that it got with one packet to the next one. What a receiver needs beyond shape
    and state is in the packet, so the settings of the two ends may differ; only their stages must
    agree.
    """

    name: ClassVar[str]

    @abstractmethod
    def encode(
        self,
        tensor: Float32[Array, "..."],
        state: CodecState,
        rng: np.random.Generator,
        *,
        lengths: Sequence[int] | None = None,
        samples: Sequence[int] | None = None,
    ) -> Encoded:
        """The packet of `tensor`, of up to four dimensions; three are [batch, token, width].

        `lengths`: how many tokens of each sample count; those after them are padding, never coded
        and allowed to hold anything. None: all count. `samples`: a number for each sample of the
        batch that is the same whenever the device sends it, for codecs that remember samples.
        `rng` draws the roundings of a stochastic codec.

        Raises PacketError: not float32, more dimensions, a length that does not fit, sample numbers
        that are missing or repeated, or a coded value that is not finite.
        """

    @abstractmethod
    def decode(self, packet: bytes, shape: tuple[int, ...], state: CodecState) -> Decoded:
        """The tensor of `packet`, which must be of `shape`, and its samples' lengths.

        Memory is proportional to `shape` and to the packet at hand, whatever the packet claims.

        Raises PacketError: anything that is not a valid packet of this codec, shape and state.
        """

    @abstractmethod
    def expected_bytes(self, shape: tuple[int, int, int]) -> float:
        """The length [bytes] to plan with for a packet of `shape` without padding.

        A codec whose length depends on the values assumes independent Laplace values. What is sent
        once (a basis) is left out.
        """

    def remembered_bytes(self, width: int) -> tuple[int, int]:
        """The most that a stream's sender and its receiver remember between packets of so many
        columns [bytes]; what they remember of each sample is left out. Here: nothing."""
        return 0, 0


@dataclass(frozen=True)
class CodecPair:
    """What activations (up) and their gradients (down) go through, which need different codecs."""

    up: Codec
    down: Codec

    def server_bytes(self, width: int) -> int:
        """What a server remembers of one device's packets: it receives activations and sends
        gradients."""
        return self.up.remembered_bytes(width)[1] + self.down.remembered_bytes(width)[0]


def part_of(state: CodecState, prefix: str) -> CodecState:
    """The arrays whose names start with `prefix`, without it."""
    return {
        name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)
    }


def under(prefix: str, state: CodecState) -> CodecState:
    """The arrays of `state` with `prefix` before their names: `part_of` undone."""
    return {prefix + name: array for name, array in state.items()}
