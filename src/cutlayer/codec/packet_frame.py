"""What surrounds the bytes of another package's codec: tokens and padding, shape and checksum.

A codec of one's own knows rows of values and bytes; this knows packets. Nothing in here is needed
by the codecs that come with cutlayer, whose packets have sections.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float32

from cutlayer.codec.codec import CodecState, Decoded
from cutlayer.codec.packet import Packet, packet_bytes, packet_from_bytes, packet_to_bytes
from cutlayer.codec.segments import Segments, segments_of
from cutlayer.errors import PacketError

_KIND, _SECTION = "other", "values"


@final
@dataclass(frozen=True)
class PacketFrame:
    """The shape of a tensor, and which of its tokens count: with a codec's bytes, a packet.

    `encode` takes `PacketFrame.of` its tensor, codes the `rows` and makes them a `packet`; `decode`
    takes `PacketFrame.read` of a packet and makes its rows a `decoded`; `expected_bytes` takes
    `PacketFrame.full` of a shape and asks for `packet_bytes`.
    """

    shape: tuple[int, ...]
    segments: Segments

    @classmethod
    def of(cls, tensor: Float32[np.ndarray, "..."], lengths: Sequence[int] | None) -> "PacketFrame":
        """Of a tensor that is to be coded. Raises PacketError: not float32, more than four
        dimensions, or lengths that do not fit."""
        return cls(tensor.shape, segments_of(tensor, lengths))

    @classmethod
    def full(cls, shape: tuple[int, int, int]) -> "PacketFrame":
        """Of a tensor of this shape without padding."""
        return cls(shape, Segments.full(shape))

    @classmethod
    def read(cls, packet: bytes, shape: tuple[int, ...]) -> tuple["PacketFrame", bytes]:
        """Of a packet that was received, and the codec's bytes in it.

        Raises PacketError: damaged, of another codec, or of another shape than `shape`.
        """
        frame = packet_from_bytes(packet, _KIND, shape)
        if set(frame.sections) != {_SECTION}:
            raise PacketError(f"sections {', '.join(frame.sections)}; expected '{_SECTION}' alone")
        return cls(frame.shape, frame.segments), frame.sections[_SECTION]

    @property
    def size(self) -> tuple[int, int]:
        """How many rows there are to code, and how wide each is."""
        return self.segments.rows, self.segments.width

    def rows(self, tensor: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "row width"]:
        """The tokens that count, one a row. Raises PacketError for a value that is not finite."""
        rows = tensor.reshape(self.segments.shape)[self.segments.token_mask]
        return self._finite(rows)

    def packet(self, coded: bytes) -> bytes:
        """The packet with the codec's bytes. Raises PacketError for more than 4 GiB."""
        return packet_to_bytes(Packet(_KIND, self.shape, self.segments, {_SECTION: coded}))

    def decoded(self, rows: Float32[np.ndarray, "row width"], state: CodecState) -> Decoded:
        """The tensor of these rows, with zeros for padding, and the receiver's state behind it.

        Raises PacketError for rows of another size, or a value that is not finite.
        """
        if rows.shape != self.size:
            raise PacketError(f"rows of shape {rows.shape}, expected {self.size}")
        values = self._finite(np.asarray(rows, dtype=np.float32))
        tensor = np.zeros(self.segments.shape, dtype=np.float32)
        tensor[self.segments.token_mask] = values
        return Decoded(tensor.reshape(self.shape), self.segments.lengths, state)

    def packet_bytes(self, coded_bytes: float) -> float:
        """The length of the packet with so many bytes of the codec's."""
        return packet_bytes(self.shape, self.segments, (coded_bytes,))

    def _finite(self, rows: Float32[np.ndarray, "row width"]) -> Float32[np.ndarray, "row width"]:
        if not np.isfinite(rows).all():
            raise PacketError("values that are NaN or infinite; a codec takes finite values")
        return rows
