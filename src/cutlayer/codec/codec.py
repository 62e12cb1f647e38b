"""What the trainer, the network runtime and the planner ask of a codec, and which values it codes.

Knows no codec: each is in a file of its own.
"""

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped

from cutlayer.codec.kernels.kernels import Array, Arrays, Kernels
from cutlayer.errors import PacketError

MAX_DIMENSIONS = 4
# numpy's name, of native byte order, and torch's
FLOAT32 = ("float32", "torch.float32")

# Which values of a padded tensor are coded: a sample's segment is its first tokens' values.
#
# A tensor of any number of dimensions up to four is seen as `[batch, token, width]`. Knows nothing
# of how values are coded.


@dataclass(frozen=True)
class Segments:
    """The coded part of a `[batch, token, width]` tensor: sample i's first `lengths[i]` tokens.

    Raises PacketError: not one length per sample, or a length outside 0..token.
    """

    shape: tuple[int, int, int]
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        batch, token, _ = self.shape
        if len(self.lengths) != batch:
            raise PacketError(f"{len(self.lengths)} lengths for {batch} samples; give one each")
        for sample, length in enumerate(self.lengths):
            if not 0 <= length <= token:
                raise PacketError(f"length {length} of sample {sample} is not within 0..{token}")

    @classmethod
    def of(cls, shape: tuple[int, int, int], lengths: Sequence[int] | None) -> "Segments":
        """The segments of `shape`; every token counts where `lengths` is None."""
        if lengths is None:
            return cls.full(shape)
        return cls(shape, tuple(operator.index(length) for length in lengths))

    @classmethod
    def full(cls, shape: tuple[int, int, int]) -> "Segments":
        """The segments of a tensor without padding."""
        return cls(shape, (shape[1],) * max(shape[0], 0))

    @property
    def is_full(self) -> bool:
        """Whether there is no padding."""
        return all(length == self.shape[1] for length in self.lengths)

    @property
    def rows(self) -> int:
        """The number of coded tokens of all samples."""
        return sum(self.lengths)

    @property
    def width(self) -> int:
        """The number of values of a token."""
        return self.shape[2]

    @property
    def total(self) -> int:
        """The number of coded values of all samples."""
        return self.rows * self.width

    @property
    def token_mask(self) -> Bool[np.ndarray, "batch token"]:
        """True where a token counts."""
        return np.arange(self.shape[1]) < np.array(self.lengths, dtype=np.int64)[:, None]

    @property
    def _places(self) -> Int64[np.ndarray, " row"]:
        """The tokens that count among all of the batch: a device need not look for them."""
        return np.flatnonzero(self.token_mask)

    def sizes(self, width: int) -> Int64[np.ndarray, " batch"]:
        """The number of values of each sample when a token has `width` of them."""
        return np.array(self.lengths, dtype=np.int64) * width

    def gather(
        self,
        tensor: Float32[Array, "batch token width"],
        kernels: Kernels,
        limit: float = math.inf,
    ) -> Float32[Array, "row width"]:
        """The coded tokens, one a row.

        Raises PacketError: a value in them is not finite, or a magnitude not below `limit`.
        """
        arrays = kernels.arrays
        chosen = tensor
        if not self.is_full:
            chosen = tensor.reshape(-1, self.width)[arrays.of(self._places)]
        values = arrays.of(chosen).reshape(self.rows, self.width)
        largest = kernels.largest(values)
        if not math.isfinite(largest):
            self._refuse_non_finite(arrays.to_host(tensor))
        if largest >= limit:
            raise PacketError(
                f"a value of magnitude {largest:.3g}: this codec takes magnitudes below "
                f"{limit:.3g}; codec none takes any"
            )
        return values

    def scatter(
        self, values: Float32[Array, "row width"], arrays: Arrays
    ) -> Float32[Array, "batch token width"]:
        """The tensor with these tokens and zeros in the padding: `gather` undone."""
        if self.is_full:
            return values.reshape(self.shape)
        batch, token, width = self.shape
        tensor = arrays.full((batch * token, width), 0.0, np.float32)
        tensor[arrays.of(self._places)] = values
        return tensor.reshape(self.shape)

    def zero_padding(
        self, tensor: Float32[np.ndarray, "batch token width"]
    ) -> Float32[np.ndarray, "batch token width"]:
        """A copy with zeros in the padding, which may have held anything."""
        return np.where(self.token_mask[:, :, None], tensor, np.float32(0))

    def _refuse_non_finite(self, tensor: Float32[np.ndarray, "batch token width"]) -> None:
        places = np.argwhere(~np.isfinite(tensor) & self.token_mask[:, :, None])
        sample, token, column = places[0].tolist()
        raise PacketError(
            f"{len(places)} of {self.total} values are NaN or infinite, the first one at sample "
            f"{sample}, token {token}, column {column}; a codec takes finite values"
        )


def segments_of(tensor: Shaped[Array, "..."], lengths: Sequence[int] | None) -> Segments:
    """The segments of a tensor that a caller hands in, which may be of the wrong kind.

    Raises PacketError: not float32 in native byte order, more than four dimensions, lengths for a
    tensor that has no batch and tokens, or as `Segments`.
    """
    if str(tensor.dtype) not in FLOAT32:
        raise PacketError(f"a tensor of {tensor.dtype}; convert it to float32")
    if lengths is not None and tensor.ndim != 3:
        raise PacketError(
            f"lengths for a tensor of shape {tensor.shape}; expected [batch, token, width]"
        )
    return Segments.of(seen_as_tokens(tensor.shape), lengths)


def seen_as_tokens(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """`shape` as [batch, token, width]: width is the last dimension, batch the first of three or
    four. Raises PacketError: more than four dimensions."""
    if len(shape) > MAX_DIMENSIONS:
        raise PacketError(
            f"a tensor of shape {shape}: at most {MAX_DIMENSIONS} dimensions; reshape it"
        )
    if len(shape) < 3:
        batch, token, width = (1, 1, 1, *shape)[-3:]
        return batch, token, width
    return shape[0], math.prod(shape[1:-1]), shape[-1]


# What a codec is asked for.


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


@dataclass(frozen=True)
class Sent:
    """One payload's length, and what it would have been as plain float32."""

    payload_bytes: int
    uncompressed_bytes: int

    def __add__(self, other: "Sent") -> "Sent":
        return Sent(
            self.payload_bytes + other.payload_bytes,
            self.uncompressed_bytes + other.uncompressed_bytes,
        )

    def __neg__(self) -> "Sent":
        return Sent(-self.payload_bytes, -self.uncompressed_bytes)


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

    def device_bytes(self, width: int) -> int:
        """What a device remembers of its packets: it sends activations and receives gradients."""
        return self.up.remembered_bytes(width)[0] + self.down.remembered_bytes(width)[1]


def part_of(state: CodecState, prefix: str) -> CodecState:
    """The arrays whose names start with `prefix`, without it."""
    return {
        name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)
    }


def under(prefix: str, state: CodecState) -> CodecState:
    """The arrays of `state` with `prefix` before their names: `part_of` undone."""
    return {prefix + name: array for name, array in state.items()}
