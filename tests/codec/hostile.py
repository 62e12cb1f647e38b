"""Hostile packets: valid ones with something wrong in them.

Those of `damaged` keep their old checksum, as accidents do, and no decoder may accept one. Those of
`forged` are signed again, so that they reach the decoders of the sections: they may decode to
something, but only to a tensor that is what its caller asked for.
"""

import struct
import zlib
from collections.abc import Callable

import numpy as np

from cutlayer.codec.packet import (
    CHECKSUM,
    HEADER,
    TAGS,
    RawPacket,
    read_packet,
    sections_from_bytes,
    sections_to_bytes,
    varint,
)
from cutlayer.errors import PacketError

Mutation = Callable[[bytes, bytes, np.random.Generator], bytes]
_EXTREME_BYTES = (0, 1, 0x7F, 0x80, 0xFF)
_EXTREME_NUMBERS = (0, 1, 2, 127, 128, 2**16 - 1, 2**16, 2**31, 2**32 - 1, 2**35 - 1)


def damaged(packet: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """`packet` after an accident; `other` is another valid one."""
    return _choose(_DAMAGES, rng)(packet, other, rng)


def forged(packet: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """`packet` as a forger would send it, with a right checksum."""
    return _choose(_FORGERIES, rng)(packet, other, rng)


def signed(body: bytes) -> bytes:
    """`body` with its checksum behind."""
    return body + CHECKSUM.pack(zlib.crc32(body))


def _choose(mutations: tuple[Mutation, ...], rng: np.random.Generator) -> Mutation:
    return mutations[int(rng.integers(len(mutations)))]


def _bit_flips(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(data)
    for _flip in range(int(rng.integers(1, 5))):
        out[int(rng.integers(len(out)))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def _byte_changes(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(data)
    at, size = int(rng.integers(len(out))), int(rng.integers(1, 9))
    if rng.random() < 0.5:
        out[at : at + size] = rng.bytes(len(out[at : at + size]))
    else:
        out[at : at + size] = bytes((int(rng.choice(_EXTREME_BYTES)),)) * len(out[at : at + size])
    return bytes(out)


def _truncation(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data)))]


def _extension(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 65)))


def _removal(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    at, size = int(rng.integers(len(data))), int(rng.integers(1, 17))
    return data[:at] + data[at + size :]


def _repetition(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    at, size = int(rng.integers(len(data))), int(rng.integers(1, 17))
    return data[: at + size] + data[at:]


def _splice(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data) + 1))] + other[int(rng.integers(len(other))) :]


def _noise(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    return rng.bytes(int(rng.integers(0, 2 * len(data) + 1)))


_DAMAGES: tuple[Mutation, ...] = (
    _bit_flips,
    _byte_changes,
    _truncation,
    _extension,
    _removal,
    _repetition,
    _splice,
    _noise,
)


def _signed_damage(packet: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return signed(damaged(packet[: -CHECKSUM.size], other[: -CHECKSUM.size], rng))


def _header_number(packet: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    """A dimension, or one of the bytes before them."""
    body = bytearray(packet[: -CHECKSUM.size])
    if rng.random() < 0.5:
        body[int(rng.integers(4, HEADER.size))] = int(rng.integers(256))
    else:
        places = [HEADER.size + 4 * i for i in range(body[HEADER.size - 1])] or [HEADER.size - 4]
        number = min(int(rng.choice(_EXTREME_NUMBERS)), 2**32 - 1)
        struct.pack_into("<I", body, int(rng.choice(places)), number)
    return signed(bytes(body))


def _section_damage(packet: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One to three sections changed, their lengths with them."""
    frame, others = read_packet(packet), read_packet(other).sections
    sections = dict(frame.sections)
    for _ in range(int(rng.integers(1, 4))):
        name = str(rng.choice(list(sections)))
        sections[name] = _changed(sections[name], others.get(name, b"\0"), rng)
    return _joined(packet, frame, sections)


def _section_number(packet: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    """An extreme number over some bytes of a section: as a varint, or of two or four bytes."""
    frame = read_packet(packet)
    sections = dict(frame.sections)
    name = str(rng.choice([name for name, data in sections.items() if data] or list(sections)))
    data, number = sections[name], int(rng.choice(_EXTREME_NUMBERS))
    form = rng.integers(3)
    octets = varint(number) if form == 0 else (number % 2**32).to_bytes(4, "little")[: 2 * form]
    # what says how much there is stands in front
    at = int(rng.integers(min(len(data), 8) + 1)) if rng.random() < 0.5 else _place(data, rng)
    sections[name] = data[:at] + octets + data[at + len(octets) :]
    return _joined(packet, frame, sections)


def _sections_exchanged(packet: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Sections of another packet, left out, renamed, or two of them exchanged."""
    frame, others = read_packet(packet), read_packet(other).sections
    sections = dict(frame.sections)
    name, second = (str(rng.choice(list(sections))) for _ in range(2))
    match int(rng.integers(4)):
        case 0:
            sections.update({name: others[name]} if name in others else dict(others))
        case 1:
            del sections[name]
        case 2:
            sections[str(rng.choice(list(TAGS)))] = sections.pop(name)
        case _:
            sections[name], sections[second] = sections[second], sections[name]
    return _joined(packet, frame, sections)


_FORGERIES: tuple[Mutation, ...] = (
    _signed_damage,
    _header_number,
    _section_damage,
    _section_damage,
    _section_number,
    _sections_exchanged,
)


def _changed(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A section's bytes changed; those that are frames themselves may be changed inside."""
    if not data:
        return rng.bytes(int(rng.integers(1, 17)))
    if rng.random() < 0.5:
        inner = _changed_inside(data, rng)
        if inner is not None:
            return inner
    return damaged(data, other or b"\0", rng)


def _changed_inside(data: bytes, rng: np.random.Generator) -> bytes | None:
    """A packet or a run of sections within a section, changed; None where it is neither."""
    try:
        return forged(data, data, rng) if read_packet(data) else None
    except PacketError:
        pass
    for start in range(4):  # a number or two stand before the sections of a basis
        try:
            sections = sections_from_bytes(data[start:])
        except PacketError:
            continue
        if sections:
            name = str(rng.choice(list(sections)))
            sections[name] = damaged(sections[name] or b"\0", data, rng)
            return data[:start] + sections_to_bytes(sections)
    return None


def _joined(packet: bytes, frame: RawPacket, sections: dict[str, bytes]) -> bytes:
    """The packet's header before other sections."""
    return signed(packet[: HEADER.size + 4 * len(frame.shape)] + sections_to_bytes(sections))


def _place(data: bytes, rng: np.random.Generator) -> int:
    return int(rng.integers(len(data) + 1))
