"""What is sent uncompressed: float32 tensors, and the labels beside an activation."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import numpy as np
from jaxtyping import Bool, Float32, Int64

from cutlayer.codec.codec import Codec, CodecState, Decoded, Encoded, Segments, segments_of
from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.codec.kernels.native import load_kernels
from cutlayer.codec.packet import (
    Packet,
    packet_bytes,
    packet_from_bytes,
    packet_to_bytes,
    read_varint,
    varint,
)
from cutlayer.errors import PacketError
from cutlayer.spec import IGNORED_LABEL

_CRC_BYTES = 4
# where the CRC-32 of either form begins, so that neither is read as the other: they differ by as
# much as if the first four bytes were inverted, which no accident does
_PLAIN, _NAMED = 0, 2**32 - 1


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


# Labels, which the server computes the loss with.
#
# Plain, where every token of every sample counts: the labels in order. Named, elsewhere: how many
# tokens in turn do not count, count, do not count (varints, until the tokens of all samples are
# named); of packed rows the lengths of their documents (varints, likewise); the labels that count.


@dataclass(frozen=True, eq=False)
class Targets:
    """What a loss is over: labels [sample] or [sample, token], -100 where nothing counts; and the
    lengths of the documents in each row (None: each row is one)."""

    labels: Int64[np.ndarray, "..."]
    documents: tuple[tuple[int, ...], ...] | None = None


def encode_targets(targets: Targets, lengths: Sequence[int] | None, classes: int) -> bytes:
    """The labels that count, in order, and which those are unless all are; a CRC-32 behind.

    Labels are 0..classes-1: class numbers, or token ids for language modelling, in the smallest
    unsigned type that holds every class, little endian. `lengths`: tokens of each sample without
    its padding (None: nothing is padded), which the decoder knows from the activation.

    Raises PacketError for a label outside that range or at padding, and for documents that do not
    make up their row.
    """
    labels = targets.labels
    counted, real = labels != IGNORED_LABEL, _real(labels.shape, lengths)
    if (counted & ~real).any():
        raise PacketError("a label at padding: set it to -100")
    sent = labels[counted]
    if sent.size and not (sent.min() >= 0 and sent.max() < classes):
        wrong = sent[(sent < 0) | (sent >= classes)][0]
        raise PacketError(f"label {wrong} is outside 0..{classes - 1}")
    values: bytes = sent.astype(_dtype(classes)).tobytes()
    documents = targets.documents if _packed(targets.documents) else None
    plain = documents is None and bool(counted[real].all())
    names = b"" if plain else _names(counted[real], documents, _row_tokens(real))
    body = names + values
    return body + _checksum(body, _PLAIN if plain else _NAMED)


def decode_targets(
    payload: bytes, shape: tuple[int, ...], lengths: Sequence[int] | None, classes: int
) -> Targets:
    """Labels of `shape` ([batch], or [batch, token] with `lengths` tokens that are no padding), and
    the documents of their rows.

    Raises PacketError for a wrong length, a wrong checksum, a label outside 0..classes-1, names of
    more or fewer tokens than there are.
    """
    body, crc = payload[:-_CRC_BYTES], payload[-_CRC_BYTES:]
    named = crc == _checksum(body, _NAMED)
    if not (named or crc == _checksum(body, _PLAIN)):
        raise PacketError(f"labels: the checksum of {len(payload)} bytes is wrong")
    counted, dtype = _real(shape, lengths), _dtype(classes)
    documents, at = None, 0
    if named:
        rows = _row_tokens(counted)
        runs, at = _read_parts(body, 0, [sum(rows)], least=0)
        counts = np.arange(len(runs[0])) % 2 == 1
        counted[counted] = np.repeat(counts, runs[0])
    count = int(counted.sum())
    if named and len(shape) > 1 and len(body) - at > count * dtype.itemsize:
        documents, at = _read_parts(body, at, rows, least=1)
    if len(body) - at != count * dtype.itemsize:
        raise PacketError(f"labels: {len(body) - at} bytes for {count} labels of {dtype}")
    labels = np.full(shape, IGNORED_LABEL, dtype=np.int64)
    labels[counted] = np.frombuffer(body, dtype, offset=at)
    if labels.size and labels.max() >= classes:
        raise PacketError(f"label {labels.max()} is outside 0..{classes - 1}")
    return Targets(labels, documents)


def _names(
    counted: Bool[np.ndarray, " token"],
    documents: Sequence[Sequence[int]] | None,
    rows: Sequence[int],
) -> bytes:
    """Which of all rows' tokens count, and where documents end."""
    changes = np.flatnonzero(np.diff(counted, prepend=False))
    numbers: list[int] = np.diff(changes, prepend=0, append=len(counted)).tolist()
    if documents is not None:
        lengths = [tokens for parts in documents for tokens in parts]
        if [sum(parts) for parts in documents] != list(rows) or min(lengths) < 1:
            raise PacketError(f"documents {documents} do not make up rows of {list(rows)} tokens")
        numbers += lengths
    return b"".join(map(varint, numbers))


def _read_parts(
    data: bytes, at: int, wholes: Sequence[int], least: int
) -> tuple[tuple[tuple[int, ...], ...], int]:
    """Numbers that add up to each of `wholes`, of at least 1 but for the first, which may be
    `least`; and where they end. Raises PacketError: other numbers."""
    found = []
    for whole in wholes:
        parts: list[int] = []
        left = whole
        while left:
            number, at = read_varint(data, at)
            if not (1 if parts else least) <= number <= left:
                raise PacketError(f"labels: {number} tokens named where {left} are left")
            parts.append(number)
            left -= number
        found.append(tuple(parts))
    return tuple(found), at


def _packed(documents: Sequence[Sequence[int]] | None) -> bool:
    """Whether a row has more than one."""
    return documents is not None and any(len(parts) > 1 for parts in documents)


def _real(shape: tuple[int, ...], lengths: Sequence[int] | None) -> Bool[np.ndarray, "..."]:
    """Which places of `shape` are no padding."""
    if len(shape) == 1 or lengths is None:
        return np.ones(shape, dtype=bool)
    return np.arange(shape[1])[None, :] < np.asarray(lengths)[:, None]


def _row_tokens(real: Bool[np.ndarray, "..."]) -> list[int]:
    """Tokens of each row; where samples have one label each, all are one row."""
    tokens: list[int] = np.atleast_2d(real).sum(1).tolist()
    return tokens


def _checksum(body: bytes, begin: int) -> bytes:
    return zlib.crc32(body, begin).to_bytes(_CRC_BYTES, "little")


def _dtype(classes: int) -> np.dtype[np.unsignedinteger]:
    return np.dtype(np.min_scalar_type(max(classes - 1, 0))).newbyteorder("<")
