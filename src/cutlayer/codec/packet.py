"""The frame around a codec's sections: what they are of, how long they are, and a checksum.

All numbers are little endian:

    magic "CUTL" | version u8 | codec u8 | dtype u8 | sections u8 | batch, token, width u32
    | length of each section u32 | the sections | CRC-32 of everything before u32

The first section is the samples' lengths: empty without padding, else `bit_length(token)` bits
each. Any change to these bytes or to a section's is a new version. A checksum finds accidents; only
the transport (TLS) keeps forgers out, so a reader trusts nothing that it has not bounded. Knows
nothing of what the other sections mean.
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from cutlayer.codec import bits
from cutlayer.codec.segments import Segments
from cutlayer.errors import PacketError

MAGIC = b"CUTL"
VERSION = 1
CODEC_IDS = {"none": 1, "paper": 2}
FLOAT32 = 1
HEADER = struct.Struct("<4sBBBBIII")
CHECKSUM = struct.Struct("<I")
LARGEST_U32 = 2**32 - 1


@dataclass(frozen=True)
class Packet:
    """A codec's name, the segments that it coded and its sections."""

    codec: str
    segments: Segments
    sections: tuple[bytes, ...]


def overhead_bytes(sections: int) -> int:
    """The length [bytes] of a packet without padding and with `sections` empty ones."""
    return HEADER.size + 4 * (1 + sections) + CHECKSUM.size


def pack(packet: Packet) -> bytes:
    """The bytes of `packet`. Raises PacketError: a dimension or section of 2^32 or more."""
    sections = (_lengths_to_bytes(packet.segments), *packet.sections)
    sizes = [len(section) for section in sections]
    if max(*sizes, *packet.segments.shape) > LARGEST_U32:
        raise PacketError(
            f"shape {packet.segments.shape}, sections of {sizes} bytes: the format ends at "
            f"{LARGEST_U32}; send smaller mini-batches"
        )
    header = HEADER.pack(
        MAGIC, VERSION, CODEC_IDS[packet.codec], FLOAT32, len(sections), *packet.segments.shape
    )
    body = header + struct.pack(f"<{len(sizes)}I", *sizes) + b"".join(sections)
    return body + CHECKSUM.pack(zlib.crc32(body))


def unpack(data: bytes, codec: str, shape: tuple[int, int, int], sections: int) -> Packet:
    """The packet in `data`, which must be `codec`'s, of `shape` and with `sections` sections.

    Raises PacketError: anything else.
    """
    if len(data) < overhead_bytes(sections):
        raise PacketError(
            f"a packet of {len(data)} bytes; one of codec '{codec}' has at least "
            f"{overhead_bytes(sections)}"
        )
    _check_header(data, codec, shape, sections)
    lengths, *rest = _split(data, sections + 1)
    return Packet(codec, _segments_from_bytes(lengths, shape), tuple(rest))


def _check_header(data: bytes, codec: str, shape: tuple[int, int, int], sections: int) -> None:
    magic, version, codec_id, dtype, count, *found_shape = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise PacketError(f"a packet starts with {MAGIC!r}, this one with {magic!r}")
    if version != VERSION:
        raise PacketError(
            f"packet version {version}, expected {VERSION}; run one cutlayer on both ends"
        )
    body, checksum = data[: -CHECKSUM.size], data[-CHECKSUM.size :]
    if CHECKSUM.pack(zlib.crc32(body)) != checksum:
        raise PacketError(
            f"a packet of {len(data)} bytes with a wrong checksum: damaged or cut off"
        )
    if codec_id != CODEC_IDS[codec]:
        raise PacketError(
            f"a packet of codec {_codec_name(codec_id)}, expected '{codec}'; "
            "set the same codec on both ends"
        )
    if dtype != FLOAT32:
        raise PacketError(f"a packet of dtype {dtype}, expected {FLOAT32} (float32)")
    if tuple(found_shape) != shape:
        raise PacketError(f"a packet of shape {tuple(found_shape)}, expected {shape}")
    if count != sections + 1:
        raise PacketError(f"a packet of {count} sections, expected {sections + 1}")


def _codec_name(codec_id: int) -> str:
    names = {number: f"'{name}'" for name, number in CODEC_IDS.items()}
    return names.get(codec_id, f"number {codec_id}")


def _split(data: bytes, count: int) -> list[bytes]:
    sizes = struct.unpack_from(f"<{count}I", data, HEADER.size)
    start = HEADER.size + 4 * count
    if start + sum(sizes) + CHECKSUM.size != len(data):
        raise PacketError(
            f"sections of {sum(sizes)} bytes in all, expected {len(data) - start - CHECKSUM.size}"
        )
    sections = []
    for size in sizes:
        sections.append(data[start : start + size])
        start += size
    return sections


def _lengths_to_bytes(segments: Segments) -> bytes:
    if segments.is_full:
        return b""
    lengths = np.array(segments.lengths, dtype=np.int64)
    return bits.pack_integers(lengths, segments.shape[1].bit_length())


def _segments_from_bytes(data: bytes, shape: tuple[int, int, int]) -> Segments:
    if not data:
        return Segments.full(shape)
    lengths = bits.unpack_integers(data, shape[0], shape[1].bit_length(), "lengths of samples")
    return Segments.of(shape, lengths.tolist())
