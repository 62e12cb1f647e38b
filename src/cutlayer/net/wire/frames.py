"""The frame of one message: who it is for is the link's business, what it means is `messages`'.

All numbers are little endian:

    magic "CUTF" | version u8 | kind u8 | sections u8 | zero u8
    | round u32 | local step u32 | micro-batch u32 | sequence number u64
    | tag u8, length u32 of each section | the sections | CRC-32 of all before u32

Any change to these bytes is a new version. A checksum finds accidents; only the link (TLS) keeps
forgers out, so a reader bounds every length by what it expects before it copies anything.
"""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from cutlayer.errors import FrameError

MAGIC = b"CUTF"
VERSION = 1
_HEADER = struct.Struct("<4sBBBBIIIQ")
_ENTRY = struct.Struct("<BI")
_CHECKSUM = struct.Struct("<I")
_LARGEST_U32 = 2**32 - 1


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1
    WELCOME = 2
    REFUSED = 3
    OPEN = 4
    ACTIVATION = 5
    GRADIENT = 6
    ADAPTER = 7
    CLOSE = 8
    # in a journal only
    RESTARTED = 9
    ROUND_CLOSED = 10
    # before a device is ready
    ASK = 11
    FETCH = 12
    PIECE = 13
    # what times are measured with
    PROBE = 14
    ECHO = 15


class FrameSection(IntEnum):
    """What a section of a frame holds."""

    SETTINGS = 1
    ADAPTER_DOWN = 2
    ACTIVATION = 3
    LABELS = 4
    SAMPLES = 5
    GRADIENT = 6
    ADAPTER_UP = 7
    PIECE = 8
    TIMES = 9


# the kinds that a reader takes, the sections of each, and the most bytes of each section
Limits = Mapping[Kind, Mapping[FrameSection, int]]


@dataclass(frozen=True)
class Position:
    """Where in the training a frame belongs; 0 where a kind has no use for a number."""

    round: int = 0
    step: int = 0
    micro: int = 0


NOWHERE = Position()


@dataclass(frozen=True)
class Frame:
    """One message before anybody has read its sections."""

    kind: Kind
    position: Position
    sequence: int
    sections: Mapping[FrameSection, bytes]


def to_bytes(frame: Frame) -> bytes:
    """The bytes of `frame`. Raises FrameError: a section of 2^32 bytes or more."""
    sections = frame.sections
    largest = max((len(section) for section in sections.values()), default=0)
    if largest > _LARGEST_U32:
        raise FrameError(f"a section of {largest} bytes: the format ends at {_LARGEST_U32}")
    place = frame.position
    numbers = (place.round, place.step, place.micro, frame.sequence)
    parts = [
        _HEADER.pack(MAGIC, VERSION, frame.kind, len(sections), 0, *numbers),
        *(_ENTRY.pack(tag, len(section)) for tag, section in sections.items()),
        *sections.values(),
    ]
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return b"".join((*parts, _CHECKSUM.pack(checksum)))


def kind_of(frame: bytes) -> Kind:
    """The kind of a frame that `to_bytes` made."""
    return Kind(frame[len(MAGIC) + 1])


def largest_frame(limits: Limits) -> int:
    """The most bytes [bytes] of any frame within `limits`: what a link need accept."""
    return max(_largest(sections) for sections in limits.values())


def from_bytes(data: bytes, limits: Limits) -> Frame:
    """The frame in `data`.

    Raises FrameError: anything but a whole frame of this version, of a kind in `limits`, with the
    sections of that kind and none of them longer than its limit.
    """
    if len(data) < _HEADER.size + _CHECKSUM.size:
        raise FrameError(f"a frame of {len(data)} bytes: too short to be one")
    magic, version, number, count, zero, *numbers = _HEADER.unpack_from(data)
    if magic != MAGIC or zero:
        raise FrameError(f"a frame starts with {MAGIC!r}, this one with {magic!r}, {zero}")
    if version != VERSION:
        raise FrameError(
            f"frame version {version}, expected {VERSION}; run one cutlayer on both ends"
        )
    kind = next((kind for kind in limits if kind == number), None)
    if kind is None:
        raise FrameError(f"a frame of kind {number}, which is not expected here")
    if len(data) > _largest(limits[kind]):
        raise FrameError(
            f"a frame of {len(data)} bytes; {kind.name} has {_largest(limits[kind])} at most"
        )
    # a view: a frame may be as large as the tensor in it
    body = memoryview(data)[: -_CHECKSUM.size]
    if _CHECKSUM.pack(zlib.crc32(body)) != data[-_CHECKSUM.size :]:
        raise FrameError(f"a frame of {len(data)} bytes with a wrong checksum: damaged")
    sizes, start = _table(body, count, limits[kind])
    round_number, step, micro, sequence = numbers
    sections = _cut(body[start:], sizes)
    return Frame(kind, Position(round_number, step, micro), sequence, sections)


def _largest(sections: Mapping[FrameSection, int]) -> int:
    table = _ENTRY.size * len(sections)
    return _HEADER.size + table + sum(sections.values()) + _CHECKSUM.size


def _table(
    body: memoryview, count: int, limits: Mapping[FrameSection, int]
) -> tuple[dict[FrameSection, int], int]:
    """The length of each section, and where the first one starts."""
    start = _HEADER.size + _ENTRY.size * count
    if count != len(limits) or start > len(body):
        raise FrameError(f"a frame of {count} sections in {len(body)} bytes, not {len(limits)}")
    sizes: dict[FrameSection, int] = {}
    for number, size in _ENTRY.iter_unpack(body[_HEADER.size : start]):
        tag = next((tag for tag in limits if tag == number), None)
        if tag is None or tag in sizes:
            raise FrameError(f"a frame with section {number}, unexpected or repeated")
        if size > limits[tag]:
            raise FrameError(f"{tag.name} of {size} bytes, at most {limits[tag]}")
        sizes[tag] = size
    if start + sum(sizes.values()) != len(body):
        raise FrameError(
            f"sections of {sum(sizes.values())} bytes in a frame with {len(body) - start} of them"
        )
    return sizes, start


def _cut(data: memoryview, sizes: Mapping[FrameSection, int]) -> dict[FrameSection, bytes]:
    sections, at = {}, 0
    for tag, size in sizes.items():
        sections[tag] = bytes(data[at : at + size])
        at += size
    return sections
