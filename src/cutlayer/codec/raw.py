"""The codec that compresses nothing: float32, little endian, in the same packet.

For a baseline, and for what must arrive exactly. Padding tokens are left out here too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float32

from cutlayer.codec.codec import Codec, Decoded, Encoded, State
from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.codec.kernels.load import load
from cutlayer.codec.packet import Packet, length_of, pack, unpack
from cutlayer.codec.segments import Segments, segments_of
from cutlayer.errors import PacketError


@final
@dataclass(frozen=True)
class RawCodec(Codec):
    """Every bit of every value that is not padding."""

    kernels: Kernels = field(default_factory=load, repr=False, compare=False)
    name: ClassVar[str] = "none"

    def encode(
        self,
        tensor: Float32[np.ndarray, "..."],
        state: State,
        rng: np.random.Generator,
        *,
        lengths: Sequence[int] | None = None,
        samples: Sequence[int] | None = None,
    ) -> Encoded:
        segments = segments_of(tensor, lengths)
        rows = segments.gather(tensor.reshape(segments.shape), self.kernels)
        values = rows.astype("<f4", copy=False)
        packet = Packet(self.name, tensor.shape, segments, {"values": values.tobytes()})
        return Encoded(pack(packet), state)

    def decode(self, packet: bytes, shape: tuple[int, ...], state: State) -> Decoded:
        frame = unpack(packet, self.name, shape)
        segments = frame.segments
        if set(frame.sections) != {"values"}:
            raise PacketError(f"sections {', '.join(frame.sections)}; expected 'values' alone")
        data = frame.sections["values"]
        if len(data) != 4 * segments.total:
            raise PacketError(f"values: {len(data)} bytes, expected {4 * segments.total}")
        # a copy: writable and native
        values = np.frombuffer(data, dtype="<f4").astype(np.float32)
        if not math.isfinite(self.kernels.largest(values)):
            raise PacketError("values: NaN or infinity, which no encoder sends")
        tensor = segments.scatter(
            values.reshape(segments.rows, segments.width), self.kernels.arrays
        )
        return Decoded(tensor.reshape(shape), segments.lengths, state)

    def expected_bytes(self, shape: tuple[int, int, int]) -> float:
        return raw_bytes(shape, None)


def raw_bytes(shape: tuple[int, int, int], lengths: Sequence[int] | None) -> float:
    """The length [bytes] of the packet that `RawCodec` makes of a tensor of `shape`."""
    segments = Segments.of(shape, lengths)
    return length_of(shape, segments, (4 * segments.total,))
