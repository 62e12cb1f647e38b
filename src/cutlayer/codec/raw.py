"""What is sent uncompressed: float32 tensors, and the labels beside an activation."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float32, Int64

from cutlayer.codec.codec import Codec, CodecState, Decoded, Encoded, Segments, segments_of
from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.codec.kernels.native import load_kernels
from cutlayer.codec.packet import Packet, packet_bytes, packet_from_bytes, packet_to_bytes
from cutlayer.errors import PacketError
from cutlayer.spec import IGNORED_LABEL

_CRC_BYTES = 4


@final
@dataclass(frozen=True)
class RawCodec(Codec):
    """Every bit of every value that is not padding: float32, little endian.

    For a baseline, and for what must arrive exactly.
    """

    kernels: Kernels = field(default_factory=load_kernels, repr=False, compare=False)
    name: ClassVar[str] = "none"

    def encode(
        self,
        tensor: Float32[np.ndarray, "..."],
        state: CodecState,
        rng: np.random.Generator,
        *,
        lengths: Sequence[int] | None = None,
        samples: Sequence[int] | None = None,
    ) -> Encoded:
        segments = segments_of(tensor, lengths)
        rows = segments.gather(tensor.reshape(segments.shape), self.kernels)
        values = rows.astype("<f4", copy=False)
        packet = Packet(self.name, tensor.shape, segments, {"values": values.tobytes()})
        return Encoded(packet_to_bytes(packet), state)

    def decode(self, packet: bytes, shape: tuple[int, ...], state: CodecState) -> Decoded:
        frame = packet_from_bytes(packet, self.name, shape)
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
    return packet_bytes(shape, segments, (4 * segments.total,))


def encode_targets(labels: Int64[np.ndarray, "..."], classes: int) -> bytes:
    """The bytes of all labels that are not padding, in order; the server computes the loss.

    Labels are 0..classes-1: class numbers, or token ids for language modelling. The smallest
    unsigned type that holds every class carries them, little endian, with a CRC-32 behind.

    Raises PacketError for a label outside that range.
    """
    sent = labels[labels != IGNORED_LABEL]
    if sent.size and not (sent.min() >= 0 and sent.max() < classes):
        wrong = sent[(sent < 0) | (sent >= classes)][0]
        raise PacketError(f"label {wrong} is outside 0..{classes - 1}")
    body: bytes = sent.astype(_dtype(classes)).tobytes()
    return body + zlib.crc32(body).to_bytes(_CRC_BYTES, "little")


def decode_targets(
    payload: bytes, shape: tuple[int, ...], lengths: Sequence[int] | None, classes: int
) -> Int64[np.ndarray, "..."]:
    """Labels of `shape` ([batch], or [batch, token] with `lengths` tokens that count).

    Raises PacketError for a wrong length, a wrong checksum or a label outside 0..classes-1.
    """
    body, crc = payload[:-_CRC_BYTES], payload[-_CRC_BYTES:]
    if len(payload) < _CRC_BYTES or zlib.crc32(body).to_bytes(_CRC_BYTES, "little") != crc:
        raise PacketError(f"labels: the checksum of {len(payload)} bytes is wrong")
    counts = _counted(shape, lengths)
    dtype = _dtype(classes)
    if len(body) != int(counts.sum()) * dtype.itemsize:
        raise PacketError(f"labels: {len(body)} bytes for {int(counts.sum())} labels of {dtype}")
    labels = np.full(shape, IGNORED_LABEL, dtype=np.int64)
    labels[counts] = np.frombuffer(body, dtype)
    if labels.size and labels.max() >= classes:
        raise PacketError(f"label {labels.max()} is outside 0..{classes - 1}")
    return labels


def _counted(shape: tuple[int, ...], lengths: Sequence[int] | None) -> np.ndarray:
    """Which places of `shape` carry a label."""
    if len(shape) == 1 or lengths is None:
        return np.ones(shape, dtype=bool)
    return np.arange(shape[1])[None, :] < np.asarray(lengths)[:, None]


def _dtype(classes: int) -> np.dtype[np.unsignedinteger]:
    return np.dtype(np.min_scalar_type(max(classes - 1, 0))).newbyteorder("<")
