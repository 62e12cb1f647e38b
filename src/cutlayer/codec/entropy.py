"""The last stage of a codec: a matrix of small integers to bytes and back, without loss.

The contract, and two coders: every symbol in the same number of bits, and the paper's Golomb gaps;
a third is in `two_way.py`. What the symbols stand for is the quantiser's business, how the named
sections become one packet the packet's. Rows are tokens, columns channels; either may be none.
"""

import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Bool, Float64, Int, Int16

from cutlayer.codec.kernels.kernels import Kernels, Symbols
from cutlayer.errors import PacketError

_LARGEST = 32767
# of `FixedWidth`: M, and 1 if 0 has an index
_RANGE = struct.Struct("<HB")
# of `Golomb`: non-zero symbols, the largest magnitude, the Golomb parameter
_COUNTS = struct.Struct("<QHB")

# named pieces of a packet, e.g. "code", "gaps", "signs"; one that is empty may be left out
Sections = dict[str, bytes]


class EntropyCoder(ABC):
    """A lossless code of symbols in -32767..32767. The same symbols give the same bytes."""

    name: ClassVar[str]

    @abstractmethod
    def encode(self, symbols: Symbols, kernels: Kernels) -> Sections:
        """The sections of `symbols`."""

    @abstractmethod
    def decode(
        self, sections: Mapping[str, bytes], rows: int, columns: int, kernels: Kernels
    ) -> Symbols:
        """`encode` undone.

        Raises PacketError for sections of no such matrix; never allocates more than some multiple
        of `rows * columns` and of the sections' own length.
        """

    @abstractmethod
    def expected_bytes(
        self, magnitudes: Float64[np.ndarray, " magnitude"], rows: int, columns: int
    ) -> dict[str, float]:
        """The length [bytes] of each section for independent symbols, where |q| is 0, 1, 2, ...
        with these probabilities."""


def section_of(sections: Mapping[str, bytes], name: str, length: int) -> bytes:
    """The section of that name. Raises PacketError if it has not `length` bytes."""
    data = sections.get(name, b"")
    if len(data) != length:
        raise PacketError(f"{name}: {len(data)} bytes, expected {length}")
    return data


def refuse_other_sections(sections: Mapping[str, bytes], *expected: str) -> None:
    """Raises PacketError if there is a section that is not among the expected ones."""
    others = sorted(set(sections) - set(expected))
    if others:
        raise PacketError(f"sections {others}, expected only {sorted(expected)}")


@final
@dataclass(frozen=True)
class FixedWidth(EntropyCoder):
    """Every symbol in the same number of bits, as few as the largest one asks for.

    With M the largest magnitude, a symbol is its index among -M..M, or without 0 where none is zero
    and that saves a bit: 2-bit symbols -2, -1, 1, 2 take 2 bits, -7..7 take 4. The fastest coder:
    use it where symbols are nearly uniform or the link is fast.
    """

    name: ClassVar[str] = "raw"

    def encode(self, symbols: Symbols, kernels: Kernels) -> Sections:
        flat = symbols.reshape(-1)
        largest = kernels.sums(symbols).largest
        if not largest:
            return {}
        # leaving 0 out saves a bit only where M is a power of two
        zero = bool(largest & (largest - 1)) or not flat.all()
        if not zero:
            flat = flat - (flat > 0)
        packed = kernels.pack(flat, _width(largest, zero), largest)
        return {"range": _RANGE.pack(largest, zero), "symbols": packed}

    def decode(
        self, sections: Mapping[str, bytes], rows: int, columns: int, kernels: Kernels
    ) -> Symbols:
        count = rows * columns
        if not count or "range" not in sections:
            refuse_other_sections(sections)
            return np.zeros((rows, columns), dtype=np.int16)
        refuse_other_sections(sections, "range", "symbols")
        largest, zero = _RANGE.unpack(section_of(sections, "range", _RANGE.size))
        if not 0 < largest <= _LARGEST or zero > 1:
            raise PacketError(f"range: largest magnitude {largest}, zero {zero}")
        width = _width(largest, bool(zero))
        packed = section_of(sections, "symbols", packed_bytes(count, width))
        symbols = kernels.unpack(packed, count, width)
        if symbols.view(np.uint16).max() > 2 * largest - 1 + zero:
            raise PacketError(f"symbols: one is beyond the largest magnitude, {largest}")
        # wraps back from modulo 2^16
        symbols -= np.int16(largest)
        if not zero:
            symbols += symbols >= 0
        return symbols.reshape(rows, columns)

    def expected_bytes(
        self, magnitudes: Float64[np.ndarray, " magnitude"], rows: int, columns: int
    ) -> dict[str, float]:
        width = _width(magnitudes.size - 1, bool(magnitudes[0] > 0.0))
        return {"range": _RANGE.size, "symbols": rows * columns * width / 8}


def _width(largest: int, zero: bool) -> int:
    return (2 * largest - 1 + zero).bit_length()


@final
@dataclass(frozen=True)
class Golomb(EntropyCoder):
    """Where symbols are not zero, as Golomb-Rice gaps; then their levels and signs, as they are.

    The code of the SFT paper's 20x: a kept value costs its gap, |q| - 1 in as many bits as the
    largest one takes (3 for 8 points), and a sign. Source: SFT section IV-C.
    """

    name: ClassVar[str] = "golomb"

    def encode(self, symbols: Symbols, kernels: Kernels) -> Sections:
        flat = symbols.reshape(-1)
        positions = np.flatnonzero(flat)
        if not positions.size:
            return {}
        some = flat[positions]
        magnitudes = np.abs(some)
        largest = int(magnitudes.max())
        code = encode_positions(positions, flat.size)
        sections = {
            "counts": _COUNTS.pack(positions.size, largest, code.parameter),
            "gaps": code.quotients,
            "gap bits": code.remainders,
            "signs": kernels.pack((some < 0).astype(np.int16), 1),
        }
        if width := (largest - 1).bit_length():
            sections["levels"] = kernels.pack(magnitudes - np.int16(1), width)
        return {name: data for name, data in sections.items() if data}

    def decode(
        self, sections: Mapping[str, bytes], rows: int, columns: int, kernels: Kernels
    ) -> Symbols:
        symbols = np.zeros(rows * columns, dtype=np.int16)
        if "counts" not in sections:
            refuse_other_sections(sections)
            return symbols.reshape(rows, columns)
        refuse_other_sections(sections, "counts", "gaps", "gap bits", "signs", "levels")
        count, largest, parameter = _COUNTS.unpack(section_of(sections, "counts", _COUNTS.size))
        if not 0 < count <= symbols.size or not 0 < largest <= _LARGEST:
            raise PacketError(
                f"counts: {count} of {symbols.size} symbols, the largest magnitude {largest}"
            )
        gaps = GolombCode(parameter, sections.get("gaps", b""), sections.get("gap bits", b""))
        positions = decode_positions(gaps, count, symbols.size)
        magnitudes = _levels_of(sections, count, largest, kernels)
        negative = kernels.unpack(section_of(sections, "signs", packed_bytes(count, 1)), count, 1)
        symbols[positions] = np.where(negative > 0, -magnitudes, magnitudes)
        return symbols.reshape(rows, columns)

    def expected_bytes(
        self, magnitudes: Float64[np.ndarray, " magnitude"], rows: int, columns: int
    ) -> dict[str, float]:
        total = rows * columns
        count = round(total * float(magnitudes[1:].sum()))
        width = (magnitudes.size - 2).bit_length()
        return {
            "counts": _COUNTS.size,
            "gaps": gap_bits(count, total) / 8,
            "levels": count * width / 8,
            "signs": count / 8,
        }


def _levels_of(
    sections: Mapping[str, bytes], count: int, largest: int, kernels: Kernels
) -> Int16[np.ndarray, " kept"]:
    width = (largest - 1).bit_length()
    packed = section_of(sections, "levels", packed_bytes(count, width))
    if not width:
        return np.ones(count, dtype=np.int16)
    levels = kernels.unpack(packed, count, width)
    if levels.max() >= largest:
        raise PacketError(f"levels: {levels.max() + 1}, expected at most {largest}")
    return levels + np.int16(1)


@dataclass(frozen=True)
class GolombCode:
    """A set of positions as Golomb-Rice coded gaps: the parameter p, the unary parts (zeros, then a
    one) and the low bits of all gaps.

    A gap g >= 0 is the number of positions skipped before the next one. It is coded as `g >> p` in
    unary and its low p bits as they are; p is the one that costs least for the gaps at hand. Unary
    parts and low bits are kept in two streams, so that both ends work on whole arrays. A set with
    more than half of all positions is coded by its complement: a full set costs nothing.

    Source: SFT section IV-C, "Golomb encoding [36], [37]", in Rice's form (a power of two as
    divisor).
    """

    parameter: int
    quotients: bytes
    remainders: bytes


def encode_positions(positions: Int[np.ndarray, " kept"], universe: int) -> GolombCode:
    """The code of ascending `positions` in 0..universe-1."""
    coded = positions
    if 2 * positions.size > universe:
        coded = _complement(positions, universe)
    return encode_gaps(np.diff(coded, prepend=-1) - 1)


def decode_positions(code: GolombCode, count: int, universe: int) -> Int[np.ndarray, " kept"]:
    """The `count` positions in 0..universe-1. Raises PacketError: the code is not of such a set."""
    inverted = 2 * count > universe
    coded = universe - count if inverted else count
    positions = np.cumsum(decode_gaps(code, coded, universe) + 1) - 1
    if coded and positions[-1] >= universe:
        raise PacketError(f"gaps: position {positions[-1]}, expected below {universe}")
    return _complement(positions, universe) if inverted else positions


def encode_gaps(gaps: Int[np.ndarray, " coded"]) -> GolombCode:
    """The code of numbers >= 0."""
    parameter = _cheapest_parameter(gaps)
    quotients = gaps >> parameter
    ends = np.cumsum(quotients + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1 if ends.size else 0, dtype=np.bool_)
    unary[ends] = True
    return GolombCode(parameter, pack_flags(unary), pack_integers(gaps, parameter))


def decode_gaps(code: GolombCode, count: int, universe: int) -> Int[np.ndarray, " coded"]:
    """`count` numbers whose sum, with 1 for each, is about `universe` at most (low bits are not
    counted). Raises PacketError: the code is not of such numbers."""
    quotients = _read_quotients(code, count, universe)
    # before the shift, in Python's integers, since it could overflow int64
    if (int(quotients.sum()) << code.parameter) + count > universe:
        raise PacketError(f"gaps: they lead beyond the last of {universe} values")
    low = unpack_integers(code.remainders, count, code.parameter, "low bits of gaps")
    gaps: Int[np.ndarray, " coded"] = (quotients << code.parameter) + low
    return gaps


def _read_quotients(code: GolombCode, coded: int, universe: int) -> Int[np.ndarray, " coded"]:
    if code.parameter > universe.bit_length():
        raise PacketError(f"gaps: Golomb parameter {code.parameter} for {universe} values")
    # a unary part is never longer than its gap and one
    if len(code.quotients) > packed_bytes(universe, 1):
        raise PacketError(f"gaps: {len(code.quotients)} bytes of unary code for {universe} values")
    unary = np.unpackbits(np.frombuffer(code.quotients, dtype=np.uint8), bitorder="little")
    ends = np.flatnonzero(unary)
    if ends.size != coded:
        raise PacketError(f"gaps: {ends.size} of them, expected {coded}")
    return np.diff(ends, prepend=-1) - 1


def _cheapest_parameter(gaps: Int[np.ndarray, " coded"]) -> int:
    """The p of fewest bits, `sum(g >> p) + n (p + 1)`: convex in p, so the first one not beaten."""
    parameter, unary_bits = 0, int(gaps.sum())
    while True:
        shorter = int((gaps >> (parameter + 1)).sum())
        if unary_bits - shorter <= gaps.size:
            return parameter
        parameter, unary_bits = parameter + 1, shorter


def _complement(positions: Int[np.ndarray, " some"], universe: int) -> Int[np.ndarray, " others"]:
    rest = np.ones(universe, dtype=np.bool_)
    rest[positions] = False
    return np.flatnonzero(rest)


# Bits in bytes, the first bit in the lowest place: flags, and unsigned integers of one width. Bytes
# that are too few or too many raise PacketError.


def packed_bytes(count: int, width: int) -> int:
    """The length [bytes] of `count` integers of `width` bits each."""
    return (count * width + 7) // 8


def pack_flags(flags: Bool[np.ndarray, " count"]) -> bytes:
    """One bit per flag."""
    return np.packbits(flags, bitorder="little").tobytes()


def unpack_flags(packed: bytes, count: int, what: str) -> Bool[np.ndarray, " count"]:
    """The first `count` flags of `packed`; `what` names them in the error."""
    if len(packed) != packed_bytes(count, 1):
        raise PacketError(f"{what}: {len(packed)} bytes, expected {packed_bytes(count, 1)}")
    octets = np.frombuffer(packed, dtype=np.uint8)
    return np.unpackbits(octets, count=count, bitorder="little").view(np.bool_)


def pack_integers(values: Int[np.ndarray, " count"], width: int) -> bytes:
    """The low `width` bits of each value, lowest first."""
    bits = (values[:, None] >> np.arange(width)) & 1
    return pack_flags(bits.reshape(-1).astype(np.bool_))


def unpack_integers(packed: bytes, count: int, width: int, what: str) -> Int[np.ndarray, " count"]:
    """`pack_integers` undone."""
    bits = unpack_flags(packed, count * width, what).reshape(count, width)
    values = np.zeros(count, dtype=np.int64)
    for place in range(width):
        values |= bits[:, place].astype(np.int64) << place
    return values


# What symbols cost, for a planner: closed forms for independent ones.


def gap_bits(count: int, universe: int) -> float:
    """Golomb-Rice bits [bit] of a random set of `count` out of `universe` positions.

    With p the share of the smaller of set and complement, each of its elements takes
    `r + 1 / (1 - (1 - p)^(2^r))` bits; the least over r.
    """
    coded = min(count, universe - count)
    if coded <= 0:
        return 0.0
    stay = 1.0 - coded / universe
    return coded * min(r + 1.0 / (1.0 - math.pow(stay, 2**r)) for r in range(32))


def signed_entropy(magnitudes: Float64[np.ndarray, " magnitude"]) -> float:
    """Entropy [bit] of a symbol whose |q| is distributed so, its sign even."""
    some = magnitudes[magnitudes > 0]
    return float(-(some * np.log2(some)).sum()) + float(magnitudes[1:].sum())
