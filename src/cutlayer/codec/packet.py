"""The frame around a codec's sections: what they are of, how long they are, and a checksum.

All numbers are little endian; a varint has 7 bits a byte, the lowest first:

    magic "CUTL" | version u8 | kind u8 | dtype u8 | dimensions u8 | shape u32 each
    | sections u8 | tag u8, length varint of each | the sections | CRC-32 of all before u32

The section "lengths" is there where samples are padded: `bit_length(token)` bits each. Any change
to these bytes or to a section's is a new version. A checksum finds accidents; only the transport
(TLS) keeps forgers out, so a reader trusts nothing that it has not bounded. Knows nothing of what
the other sections mean, nor the bytes of another package's codec, which get a frame as well.
"""

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float32

from cutlayer.codec.codec import (
    MAX_DIMENSIONS,
    CodecState,
    Decoded,
    Segments,
    seen_as_tokens,
    segments_of,
)
from cutlayer.codec.entropy import pack_integers, unpack_integers
from cutlayer.errors import PacketError

MAGIC = b"CUTL"
VERSION = 2
# "other": of a codec of another package
KINDS = {
    "none": 1,
    "staged": 2,
    "delta": 3,
    "adapter": 4,
    "references": 5,
    "row": 6,
    "other": 255,
}
TAGS = {
    "lengths": 1,
    "stages": 2,
    "mean": 3,
    "basis": 4,
    "basis id": 5,
    "quantiser": 6,
    "values": 7,
    "range": 8,
    "symbols": 9,
    "counts": 10,
    "gaps": 11,
    "gap bits": 12,
    "levels": 13,
    "signs": 14,
    "model": 15,
    "scores": 16,
    "row scores": 17,
    "column scores": 18,
    "skews": 19,
    "code": 20,
    "escapes": 21,
    "samples": 22,
    "known": 23,
    "inner": 24,
    "references": 25,
    "zeros": 26,
}
NAMES = {tag: name for name, tag in TAGS.items()}
FLOAT32 = 1
HEADER = struct.Struct("<4sBBBB")
CHECKSUM = struct.Struct("<I")
LARGEST_U32 = 2**32 - 1
MAX_VARINT_BYTES = 5


@dataclass(frozen=True)
class Packet:
    """What a packet is of, and its sections by name."""

    kind: str
    shape: tuple[int, ...]
    segments: Segments
    sections: Mapping[str, bytes]


@dataclass(frozen=True)
class RawPacket:
    """A packet before anybody has said what it should be: `shape` is what it claims."""

    kind: str
    shape: tuple[int, ...]
    sections: Mapping[str, bytes]


def packet_to_bytes(packet: Packet) -> bytes:
    """The bytes of `packet`. Raises PacketError: a dimension or section of 2^32 or more."""
    sections = dict(packet.sections)
    if not packet.segments.is_full:
        sections = {"lengths": _lengths_to_bytes(packet.segments), **sections}
    sizes = [len(section) for section in sections.values()]
    if max(*sizes, *packet.shape, 0, 0) > LARGEST_U32:
        raise PacketError(
            f"shape {packet.shape}, sections of {sizes} bytes: the format ends at "
            f"{LARGEST_U32}; send smaller mini-batches"
        )
    shape = packet.shape
    header = HEADER.pack(MAGIC, VERSION, KINDS[packet.kind], FLOAT32, len(shape))
    # joined once: a packet may be as large as its tensor
    parts = [header, struct.pack(f"<{len(shape)}I", *shape), *_section_parts(sections)]
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return b"".join((*parts, CHECKSUM.pack(checksum)))


def packet_from_bytes(data: bytes, kind: str, shape: tuple[int, ...]) -> Packet:
    """The packet in `data`, which must be of `kind` and `shape`. Raises PacketError: anything
    else."""
    frame = read_packet(data)
    if frame.kind != kind:
        raise PacketError(
            f"a packet of kind '{frame.kind}', expected '{kind}'; set the same codec on both ends"
        )
    if frame.shape != tuple(shape):
        raise PacketError(f"a packet of shape {frame.shape}, expected {tuple(shape)}")
    sections = dict(frame.sections)
    segments = _segments_from_bytes(sections.pop("lengths", None), seen_as_tokens(shape))
    return Packet(kind, frame.shape, segments, sections)


def read_packet(data: bytes) -> RawPacket:
    """The packet in `data`, whatever it is of; nothing is allocated but its sections.

    Raises PacketError: not a whole packet of this version.
    """
    if len(data) < HEADER.size + 1 + CHECKSUM.size:
        raise PacketError(f"a packet of {len(data)} bytes; too short to be one")
    magic, version, kind, dtype, dimensions = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise PacketError(f"a packet starts with {MAGIC!r}, this one with {magic!r}")
    if version != VERSION:
        raise PacketError(
            f"packet version {version}, expected {VERSION}; run the same version on both ends"
        )
    # a view: a packet may be as large as its tensor
    body = memoryview(data)[: -CHECKSUM.size]
    if CHECKSUM.pack(zlib.crc32(body)) != data[-CHECKSUM.size :]:
        raise PacketError(
            f"a packet of {len(data)} bytes with a wrong checksum: damaged or cut off"
        )
    if dtype != FLOAT32:
        raise PacketError(f"a packet of dtype {dtype}, expected {FLOAT32} (float32)")
    kinds = {number: name for name, number in KINDS.items()}
    if kind not in kinds:
        raise PacketError(f"a packet of kind {kind}, which this version does not know")
    start = HEADER.size + 4 * dimensions
    if dimensions > MAX_DIMENSIONS or len(body) < start:
        raise PacketError(f"a packet of {dimensions} dimensions in {len(data)} bytes")
    shape = struct.unpack_from(f"<{dimensions}I", body, HEADER.size)
    return RawPacket(kinds[kind], shape, sections_from_bytes(body[start:]))


def sections_to_bytes(sections: Mapping[str, bytes]) -> bytes:
    """The number of sections, tag and length of each, then all of them."""
    return b"".join(_section_parts(sections))


def _section_parts(sections: Mapping[str, bytes]) -> list[bytes]:
    head = bytearray((len(sections),))
    for name, section in sections.items():
        head.append(TAGS[name])
        head += varint(len(section))
    return [bytes(head), *sections.values()]


def sections_from_bytes(data: bytes | memoryview) -> dict[str, bytes]:
    """`sections_to_bytes` undone. Raises PacketError: unknown or repeated tags, wrong lengths."""
    if not data:
        raise PacketError("sections: none, not even their number")
    sizes: dict[str, int] = {}
    at = 1
    for _ in range(data[0]):
        name = NAMES.get(data[at]) if at < len(data) else None
        if name is None or name in sizes:
            raise PacketError(f"sections: an unknown or repeated one at byte {at}")
        sizes[name], at = read_varint(data, at + 1)
    if at + sum(sizes.values()) != len(data):
        raise PacketError(f"sections of {sum(sizes.values())} bytes, expected {len(data) - at}")
    sections = {}
    for name, size in sizes.items():
        sections[name] = bytes(data[at : at + size])
        at += size
    return sections


def packet_bytes(shape: tuple[int, ...], segments: Segments, sizes: Iterable[float]) -> float:
    """The length [bytes] of a packet whose sections take `sizes`."""
    sizes = list(sizes)
    if not segments.is_full:
        sizes = [len(_lengths_to_bytes(segments)), *sizes]
    table = sum(1 + len(varint(int(size))) for size in sizes)
    return HEADER.size + 4 * len(shape) + 1 + table + CHECKSUM.size + sum(sizes)


def varint(number: int) -> bytes:
    """A number from 0 on, 7 bits a byte, the lowest first; the top bit says that more follow."""
    octets = bytearray()
    while number > 127:
        octets.append(number & 127 | 128)
        number >>= 7
    octets.append(number)
    return bytes(octets)


def read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """The number at byte `at`, and where it ends. Raises PacketError: cut off or above 5 bytes."""
    number = 0
    for place in range(MAX_VARINT_BYTES):
        if at + place >= len(data):
            break
        octet = data[at + place]
        number |= (octet & 127) << 7 * place
        if octet < 128:
            return number, at + place + 1
    raise PacketError(f"a number at byte {at} that does not end")


def _lengths_to_bytes(segments: Segments) -> bytes:
    lengths = np.array(segments.lengths, dtype=np.int64)
    return pack_integers(lengths, segments.shape[1].bit_length())


def _segments_from_bytes(data: bytes | None, shape: tuple[int, int, int]) -> Segments:
    if data is None:
        return Segments.full(shape)
    lengths = unpack_integers(data, shape[0], shape[1].bit_length(), "lengths of samples")
    return Segments.of(shape, lengths.tolist())


# What surrounds the bytes of another package's codec: tokens and padding, shape and checksum.
#
# A codec of one's own knows rows of values and bytes; this knows packets. Nothing in here is needed
# by the codecs that come with cutlayer, whose packets have sections.


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
