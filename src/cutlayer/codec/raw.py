"""The codec that compresses nothing: float32, little endian, in the same packet.

For a baseline, and for what must arrive exactly. Padding tokens are left out here too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float32

from cutlayer.codec.codec import Codec, Decoded
from cutlayer.codec.packet import Packet, overhead_bytes, pack, unpack
from cutlayer.codec.segments import segments_of
from cutlayer.errors import PacketError


@final
@dataclass(frozen=True)
class RawCodec(Codec):
    """Every bit of every value that is not padding."""

    name: ClassVar[str] = "none"

    def encode(
        self,
        tensor: Float32[np.ndarray, "batch token width"],
        lengths: Sequence[int] | None,
        rng: np.random.Generator,
    ) -> bytes:
        segments = segments_of(tensor, lengths)
        values = segments.gather(tensor).astype("<f4", copy=False)
        return pack(Packet(self.name, segments, (values.tobytes(),)))

    def decode(self, packet: bytes, shape: tuple[int, int, int]) -> Decoded:
        frame = unpack(packet, self.name, shape, sections=1)
        (data,) = frame.sections
        if len(data) != 4 * frame.segments.total:
            raise PacketError(f"values: {len(data)} bytes, expected {4 * frame.segments.total}")
        # a copy: writable and native
        values = np.frombuffer(data, dtype="<f4").astype(np.float32)
        if not np.isfinite(values).all():
            raise PacketError("values: NaN or infinity, which no encoder sends")
        return Decoded(frame.segments.scatter(values), frame.segments.lengths)

    def expected_bytes(self, shape: tuple[int, int, int]) -> float:
        return float(overhead_bytes(1) + 4 * math.prod(shape))
