"""Where symbols are not zero, as Golomb-Rice gaps; then their levels and signs, as they are.

The code of the SFT paper's 20x: a kept value costs its gap, |q| - 1 in as many bits as the largest
one takes (3 for 8 points), and a sign. Knows nothing of what symbols mean.

Source: SFT section IV-C.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float64, Int16

from cutlayer.codec.entropy.coder import EntropyCoder, Sections, refuse_others, section
from cutlayer.codec.entropy.golomb import GolombCode, decode_positions, encode_positions
from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.codec.stages import estimate
from cutlayer.errors import PacketError

# non-zero symbols, the largest magnitude, the Golomb parameter
_COUNTS = struct.Struct("<QHB")
_LARGEST = 32767


@final
@dataclass(frozen=True)
class Golomb(EntropyCoder):
    """See the module."""

    name: ClassVar[str] = "golomb"

    def encode(self, symbols: Int16[np.ndarray, "row column"], kernels: Kernels) -> Sections:
        """See `EntropyCoder.encode`."""
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
    ) -> Int16[np.ndarray, "row column"]:
        """See `EntropyCoder.decode`."""
        symbols = np.zeros(rows * columns, dtype=np.int16)
        if "counts" not in sections:
            refuse_others(sections)
            return symbols.reshape(rows, columns)
        refuse_others(sections, "counts", "gaps", "gap bits", "signs", "levels")
        count, largest, parameter = _COUNTS.unpack(section(sections, "counts", _COUNTS.size))
        if not 0 < count <= symbols.size or not 0 < largest <= _LARGEST:
            raise PacketError(
                f"counts: {count} of {symbols.size} symbols, the largest magnitude {largest}"
            )
        gaps = GolombCode(parameter, sections.get("gaps", b""), sections.get("gap bits", b""))
        positions = decode_positions(gaps, count, symbols.size)
        magnitudes = _magnitudes(sections, count, largest, kernels)
        negative = kernels.unpack(section(sections, "signs", (count + 7) // 8), count, 1)
        symbols[positions] = np.where(negative > 0, -magnitudes, magnitudes)
        return symbols.reshape(rows, columns)

    def expected_bytes(
        self, magnitudes: Float64[np.ndarray, " magnitude"], rows: int, columns: int
    ) -> dict[str, float]:
        """See `EntropyCoder.expected_bytes`."""
        total = rows * columns
        count = round(total * float(magnitudes[1:].sum()))
        width = (magnitudes.size - 2).bit_length()
        return {
            "counts": _COUNTS.size,
            "gaps": estimate.gap_bits(count, total) / 8,
            "levels": count * width / 8,
            "signs": count / 8,
        }


def _magnitudes(
    sections: Mapping[str, bytes], count: int, largest: int, kernels: Kernels
) -> Int16[np.ndarray, " kept"]:
    width = (largest - 1).bit_length()
    packed = section(sections, "levels", (count * width + 7) // 8)
    if not width:
        return np.ones(count, dtype=np.int16)
    levels = kernels.unpack(packed, count, width)
    if levels.max() >= largest:
        raise PacketError(f"levels: {levels.max() + 1}, expected at most {largest}")
    return levels + np.int16(1)
