"""A set of positions as Golomb-Rice coded gaps.

A gap g >= 0 is the number of positions skipped before the next one. It is coded as `g >> p` in
unary and its low p bits as they are; p is the one that costs least for the gaps at hand. Unary
parts and low bits are kept in two streams, so that both ends work on whole arrays. A set with more
than half of all positions is coded by its complement: a full set costs nothing.

Source: SFT section IV-C, "Golomb encoding [36], [37]", in Rice's form (a power of two as divisor).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from cutlayer.codec import bits
from cutlayer.errors import PacketError


@dataclass(frozen=True)
class GolombCode:
    """The parameter p, the unary parts (zeros, then a one) and the low bits of all gaps."""

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
    return GolombCode(parameter, bits.pack_flags(unary), bits.pack_integers(gaps, parameter))


def decode_gaps(code: GolombCode, count: int, universe: int) -> Int[np.ndarray, " coded"]:
    """`count` numbers whose sum, with 1 for each, is about `universe` at most (low bits are not
    counted). Raises PacketError: the code is not of such numbers."""
    quotients = _read_quotients(code, count, universe)
    # before the shift, in Python's integers, since it could overflow int64
    if (int(quotients.sum()) << code.parameter) + count > universe:
        raise PacketError(f"gaps: they lead beyond the last of {universe} values")
    low = bits.unpack_integers(code.remainders, count, code.parameter, "low bits of gaps")
    gaps: Int[np.ndarray, " coded"] = (quotients << code.parameter) + low
    return gaps


def _read_quotients(code: GolombCode, coded: int, universe: int) -> Int[np.ndarray, " coded"]:
    if code.parameter > universe.bit_length():
        raise PacketError(f"gaps: Golomb parameter {code.parameter} for {universe} values")
    # a unary part is never longer than its gap and one
    if len(code.quotients) > bits.packed_bytes(universe, 1):
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
