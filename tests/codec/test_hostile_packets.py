"""Forged packets with a right checksum: a PacketError or a finite tensor, never anything else."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from cutlayer.codec.codec import Codec
from cutlayer.codec.packet import HEADER, Packet, pack, unpack
from cutlayer.codec.paper import SECTIONS, PaperCodec
from cutlayer.codec.raw import RawCodec
from cutlayer.errors import PacketError

VICTIMS: list[tuple[Codec, int, tuple[int, int, int], tuple[int, ...] | None]] = [
    (PaperCodec(0.2, 7), SECTIONS, (2, 5, 16), None),
    (PaperCodec(0.5, 31), SECTIONS, (3, 4, 8), (4, 1, 0)),
    (PaperCodec(0.9, 255), SECTIONS, (1, 7, 9), None),
    (PaperCodec(1.0, 3), SECTIONS, (2, 20, 32), (20, 13)),
    (RawCodec(), 1, (2, 3, 4), (3, 2)),
]
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF)


def mangled(data, rng):
    """`data` with a few bytes set, removed, inserted, repeated or moved."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, len(out) + 1))
        size = int(rng.integers(1, 6))
        kind = rng.integers(0, 6)
        if kind == 0:
            out[at : at + 1] = bytes((int(rng.integers(0, 256)),))
        elif kind == 1:
            out[at : at + size] = bytes((int(rng.choice(EXTREMES)),)) * size
        elif kind == 2:
            del out[at : at + size]
        elif kind == 3:
            out[at:at] = rng.bytes(size)
        elif kind == 4:
            out[at:at] = out[at : at + size]
        elif at < len(out):
            out[at] ^= 1 << int(rng.integers(0, 8))
    return bytes(out)


def signed(body):
    return body + struct.pack("<I", zlib.crc32(body))


def forged(packet, codec, sections, shape, rng):
    """A packet with something wrong in it and a right checksum."""
    kind = rng.integers(0, 4)
    if kind == 0:
        return signed(mangled(packet[:-4], rng))
    if kind == 1:  # a number in the header or in the table of sections
        body = bytearray(packet[:-4])
        at = 4 * int(rng.integers(1, (HEADER.size // 4) + 1 + sections))
        struct.pack_into("<I", body, at, int(rng.choice([0, 1, 2**16, 2**31, 2**32 - 1])))
        return signed(bytes(body))
    # sections changed, and their lengths with them
    frame = unpack(packet, codec.name, shape, sections)
    parts = list(frame.sections)
    for _ in range(kind - 1):
        index = int(rng.integers(0, sections))
        parts[index] = mangled(parts[index], rng)
    return pack(Packet(codec.name, frame.segments, tuple(parts)))


def attack(codec, sections, shape, lengths, mutations, seed):
    """How many of `mutations` forged packets decode; any error but PacketError gets out."""
    rng = np.random.default_rng(seed)
    tensor = rng.laplace(size=shape).astype(np.float32)
    packet = codec.encode(tensor, lengths, rng)
    decoded = 0
    for _ in range(mutations):
        hostile = forged(packet, codec, sections, shape, rng)
        try:
            result = codec.decode(hostile, shape)
        except PacketError as error:
            assert str(error)
            continue
        decoded += 1
        assert result.tensor.shape == shape
        assert np.isfinite(result.tensor).all()
        for sample, length in zip(result.tensor, result.lengths, strict=True):
            assert not sample[length:].any()
    return decoded


@pytest.mark.parametrize(("codec", "sections", "shape", "lengths"), VICTIMS)
def test_forged_packets_are_refused_or_decode_to_finite_values(codec, sections, shape, lengths):
    decoded = attack(codec, sections, shape, lengths, mutations=600, seed=0)
    # some change only a sign or a scale; all of them decoding would mean that nothing was changed
    assert 0 < decoded < 600


@pytest.mark.parametrize(("codec", "sections", "shape", "lengths"), VICTIMS)
def test_a_packet_cut_at_any_byte_is_refused(codec, sections, shape, lengths):
    rng = np.random.default_rng(0)
    packet = codec.encode(rng.normal(size=shape).astype(np.float32), lengths, rng)
    for size in range(len(packet)):
        with pytest.raises(PacketError):
            codec.decode(packet[:size], shape)
    for size in range(len(packet) - 4):
        with pytest.raises(PacketError):
            codec.decode(signed(packet[:size]), shape)


@pytest.mark.parametrize("claim", [2**20, 2**31, 2**32 - 1])
@pytest.mark.parametrize("place", range(1, 13))
def test_a_claim_of_much_data_takes_no_memory(place, claim):
    shape = (2, 5, 16)
    codec = PaperCodec(0.2, 7)
    rng = np.random.default_rng(0)
    body = bytearray(codec.encode(rng.normal(size=shape).astype(np.float32), None, rng)[:-4])
    # after the magic: versions, shape, then the lengths of eight sections
    struct.pack_into("<I", body, 4 * place, claim)
    hostile = signed(bytes(body))
    tracemalloc.start()
    try:
        with pytest.raises(PacketError):
            codec.decode(hostile, shape)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # the tensor has 640 bytes, a decoder's table of 4096 slots 32 KiB; the rest is the traceback
    assert peak_bytes < 2**20
