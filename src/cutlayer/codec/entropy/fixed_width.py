"""Every symbol in the same number of bits, as few as the largest one asks for.

With M the largest magnitude, a symbol is its index among -M..M, or without 0 where none is zero
and that saves a bit: 2-bit symbols -2, -1, 1, 2 take 2 bits, -7..7 take 4. Knows nothing of what
symbols mean. The fastest coder: use it where symbols are nearly uniform or the link is fast.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float64, Int16

from cutlayer.codec.entropy.coder import EntropyCoder, Sections, refuse_others, section
from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.errors import PacketError

# M, and 1 if 0 has an index
_RANGE = struct.Struct("<HB")
_LARGEST = 32767


@final
@dataclass(frozen=True)
class FixedWidth(EntropyCoder):
    """See the module."""

    name: ClassVar[str] = "raw"

    def encode(self, symbols: Int16[np.ndarray, "row column"], kernels: Kernels) -> Sections:
        """See `EntropyCoder.encode`."""
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
    ) -> Int16[np.ndarray, "row column"]:
        """See `EntropyCoder.decode`."""
        count = rows * columns
        if not count or "range" not in sections:
            refuse_others(sections)
            return np.zeros((rows, columns), dtype=np.int16)
        refuse_others(sections, "range", "symbols")
        largest, zero = _RANGE.unpack(section(sections, "range", _RANGE.size))
        if not 0 < largest <= _LARGEST or zero > 1:
            raise PacketError(f"range: largest magnitude {largest}, zero {zero}")
        width = _width(largest, bool(zero))
        packed = section(sections, "symbols", (count * width + 7) // 8)
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
        """See `EntropyCoder.expected_bytes`."""
        width = _width(magnitudes.size - 1, bool(magnitudes[0] > 0.0))
        return {"range": _RANGE.size, "symbols": rows * columns * width / 8}


def _width(largest: int, zero: bool) -> int:
    return (2 * largest - 1 + zero).bit_length()
