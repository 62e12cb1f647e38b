"""Frozen weights as bytes and back, to the bit: byte planes, each in the cheapest of three forms.

The values of a tensor go in slices of `SLICE_VALUES`, each of which is decoded alone, so that
neither end holds more than one beside the tensor. A slice is its values' bytes by significance, the
highest first. A float32 or bfloat16 is turned left by a bit before, which puts the exponent in a
byte of its own; the sign comes last. A plane is

    0, the byte                                  where all its bytes are equal
    1, the bytes                                 where coding would not pay
    2, length u32, lowest u8, highest u8,
       frequencies of those, 12 bits each, code  by the kernels' rANS with one table

Exponents of trained weights take some 2.7 of their 8 bits and mantissas all of theirs; so float32
becomes a sixth smaller, bfloat16 a third. What came from bfloat16, or float16, keeps that size in
float32, since its low planes are zeros. Knows bytes and the width of a value, not what they mean.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from cutlayer.codec.kernels.kernels import ContextModel, Kernels
from cutlayer.errors import PacketError

SLICE_VALUES = 1 << 18
# a plane that stays as it is has one byte more
_PLANE_HEAD = 1
_SAME, _PLAIN, _CODED = range(3)
_LENGTH = struct.Struct("<IBB")
_SYMBOLS = 256
# the kernels' symbols are around 0: a byte less this
_MIDDLE = 128
_FREQUENCY_BITS = 12
# coding takes time at both ends: not for less than a 64th
_WORTH = 63 / 64
# of a code: the states of its lanes, beside the entropy
_CODE_BYTES = 96


@dataclass(frozen=True)
class Numbers:
    """How values lie in bytes: `width` bytes a value, little endian; `turned`: the exponent has
    eight bits, below the sign."""

    width: int
    turned: bool = False

    @property
    def slice_bytes(self) -> int:
        """Of a whole slice, decoded."""
        return self.width * SLICE_VALUES

    def most_bytes(self, size: int) -> int:
        """The most that `size` bytes of values take when they are coded."""
        slices = -(-size // self.slice_bytes)
        return size + slices * self.width * _PLANE_HEAD


def encode_slice(data: memoryview, numbers: Numbers, kernels: Kernels) -> bytes:
    """The code of at most `SLICE_VALUES` values in whole."""
    octets = np.frombuffer(data, np.uint8).reshape(-1, numbers.width)
    if numbers.turned:
        octets = _turned(octets, left=True)
    planes = (np.ascontiguousarray(octets[:, at]) for at in reversed(range(numbers.width)))
    return b"".join(part for plane in planes for part in _encode_plane(plane, kernels))


def decode_slice(
    code: memoryview, count: int, numbers: Numbers, kernels: Kernels
) -> tuple[bytes, int]:
    """The bytes of the `count` values that `code` begins with, and how many bytes of it those were.

    Raises PacketError for what `encode_slice` does not give; allocates no more than some multiple
    of `count`.
    """
    octets = np.empty((count, numbers.width), dtype=np.uint8)
    at = 0
    for place in reversed(range(numbers.width)):
        octets[:, place], read = _decode_plane(code[at:], count, kernels)
        at += read
    if numbers.turned:
        octets = _turned(octets, left=False)
    return octets.tobytes(), at


def encode_weights(data: memoryview, numbers: Numbers, kernels: Kernels) -> Iterator[bytes]:
    """The codes of the slices of `data`, one after another."""
    for first in range(0, len(data), numbers.slice_bytes):
        yield encode_slice(data[first : first + numbers.slice_bytes], numbers, kernels)


def _turned(
    octets: UInt8[np.ndarray, "value width"], *, left: bool
) -> UInt8[np.ndarray, "value width"]:
    """Each value's bits, the highest bit as the lowest, or back."""
    kind = np.dtype(f"<u{octets.shape[1]}")
    values, last = octets.reshape(-1).view(kind), kind.type(8 * octets.shape[1] - 1)
    one = kind.type(1)
    turned = values << one | values >> last if left else values >> one | values << last
    found: UInt8[np.ndarray, "value width"] = turned.view(np.uint8).reshape(octets.shape)
    return found


def _encode_plane(plane: UInt8[np.ndarray, " value"], kernels: Kernels) -> Iterator[bytes]:
    counts = np.bincount(plane, minlength=_SYMBOLS)
    some = np.flatnonzero(counts)
    if some.size == 1:
        yield bytes((_SAME, some[0]))
        return
    coded = _coded(plane, counts, kernels) if _pays(counts, plane.size) else b""
    if coded and len(coded) < plane.size:
        yield bytes((_CODED,))
        yield coded
    else:
        yield bytes((_PLAIN,))
        yield plane.tobytes()


def _pays(counts: np.ndarray, size: int) -> bool:
    """Whether the entropy is small enough for a code to be shorter by enough."""
    some = counts[counts > 0]
    entropy_bytes = float((some * np.log2(size / some)).sum()) / 8
    table = _FREQUENCY_BITS * some.size / 8
    return entropy_bytes + table + _CODE_BYTES < _WORTH * size


def _coded(plane: UInt8[np.ndarray, " value"], counts: np.ndarray, kernels: Kernels) -> bytes:
    table = kernels.twelve_bits((counts[None] << 32) // plane.size)
    some = np.flatnonzero(counts)
    low, high = int(some[0]), int(some[-1])
    frequencies = kernels.pack(table[0, low : high + 1].astype(np.int16), _FREQUENCY_BITS)
    symbols = plane.astype(np.int16) - np.int16(_MIDDLE)
    (code,) = kernels.rans_encode(symbols[None], _model(table[0], plane.size), 1)
    return _LENGTH.pack(len(code), low, high) + frequencies + code


def _decode_plane(
    code: memoryview, count: int, kernels: Kernels
) -> tuple[UInt8[np.ndarray, " value"] | np.uint8, int]:
    """The plane, or the one byte that it is full of; and its length in the code."""
    form = code[0] if code else None
    if form == _SAME and len(code) > 1:
        return np.uint8(code[1]), 2
    if form == _PLAIN and len(code) > count:
        return np.frombuffer(code[1 : 1 + count], np.uint8), 1 + count
    if form != _CODED or len(code) < 1 + _LENGTH.size:
        raise PacketError(f"weights: a plane of form {form} in {len(code)} bytes")
    length, low, high = _LENGTH.unpack_from(code, 1)
    start = 1 + _LENGTH.size
    packed = (_FREQUENCY_BITS * (high - low + 1) + 7) // 8
    end = start + packed + length
    if low > high or end > len(code):
        raise PacketError(f"weights: bytes {low} to {high} in {length} bytes of code, which end")
    frequencies = kernels.unpack(
        bytes(code[start : start + packed]), high - low + 1, _FREQUENCY_BITS
    )
    table = np.zeros(_SYMBOLS, dtype=np.uint16)
    table[low : high + 1] = frequencies
    symbols = kernels.rans_decode([bytes(code[start + packed : end])], _model(table, count), count)
    return (symbols[0] + np.int16(_MIDDLE)).astype(np.uint8), end


def _model(table: np.ndarray, count: int) -> ContextModel:
    """All values in one row, by one table of the bytes."""
    zeros = np.zeros(count, dtype=np.int16)
    frequencies = np.zeros((1, _SYMBOLS + 1), dtype=np.uint16)
    frequencies[0, :_SYMBOLS] = table
    return ContextModel(zeros[:1], zeros, zeros, 1, frequencies)
