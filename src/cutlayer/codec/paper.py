"""The paper's codec: Top-K, stochastic quantisation, Golomb gaps, entropy-coded levels, signs.

Composes the stages; each is in its own file. Source: SFT section IV-C.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float32, Int, UInt8

from cutlayer.codec import bits, estimate, rans
from cutlayer.codec.codec import Codec, Decoded
from cutlayer.codec.frequencies import normalised, table_from_bytes, table_to_bytes
from cutlayer.codec.golomb import GolombCode, decode_positions, encode_positions
from cutlayer.codec.packet import Packet, overhead_bytes, pack, unpack
from cutlayer.codec.quantise import dequantise, quantise, scales_from_bytes, scales_of
from cutlayer.codec.segments import Segments, segments_of
from cutlayer.codec.sparsify import kept_counts, top_k
from cutlayer.errors import ConfigError, PacketError

SECTIONS = 7
MAX_LEVELS = 255
SETTINGS = struct.Struct("<dBB")


@final
@dataclass(frozen=True)
class PaperCodec(Codec):
    """Keeps the largest `keep_ratio` of each sample's values, each as one of `levels` + 1 points.

    `keep_ratio` is the paper's rho, a retained share in (0, 1]; its "80 % sparsity" is 0.2.
    `levels` is E of eq. (17), 1..255 intervals; "q bits" there are 2^q - 1 of them, the sign not
    counted. A kept value decodes without bias; the others decode to zero. One scale serves all
    columns of a sample, so it loses most where a few columns are much larger than the rest: raise
    `levels` there.

    Raises ConfigError: a setting out of range.
    """

    keep_ratio: float
    levels: int
    name: ClassVar[str] = "paper"

    def __post_init__(self) -> None:
        if not 0.0 < self.keep_ratio <= 1.0:
            raise ConfigError(f"keep_ratio {self.keep_ratio}: give a share in (0, 1], such as 0.2")
        if not isinstance(self.levels, int) or not 1 <= self.levels <= MAX_LEVELS:
            raise ConfigError(f"levels {self.levels}: give a whole number from 1 to {MAX_LEVELS}")

    def encode(
        self,
        tensor: Float32[np.ndarray, "batch token width"],
        lengths: Sequence[int] | None,
        rng: np.random.Generator,
    ) -> bytes:
        segments = segments_of(tensor, lengths)
        values = segments.gather(tensor)
        magnitudes = np.abs(values)
        counts = kept_counts(segments.sizes, self.keep_ratio)
        positions = top_k(magnitudes, segments.sizes, counts)
        gaps = encode_positions(positions, segments.total)
        scales = scales_of(magnitudes[positions], counts)
        levels = quantise(magnitudes[positions], counts, scales, self.levels, rng)
        table, code = _encode_levels(levels, self.levels)
        sections = (
            SETTINGS.pack(self.keep_ratio, self.levels, gaps.parameter),
            scales.to_bytes(),
            gaps.quotients,
            gaps.remainders,
            table,
            code,
            bits.pack_flags(values[positions] < 0),
        )
        return pack(Packet(self.name, segments, sections))

    def decode(self, packet: bytes, shape: tuple[int, int, int]) -> Decoded:
        frame = unpack(packet, self.name, shape, SECTIONS)
        segments = frame.segments
        settings, scales, quotients, remainders, table, code, signs = frame.sections
        sender, parameter = _settings_from_bytes(settings)
        counts = kept_counts(segments.sizes, sender.keep_ratio)
        count = int(counts.sum())
        gaps = GolombCode(parameter, quotients, remainders)
        positions = decode_positions(gaps, count, segments.total)
        _check_counts(positions, segments, counts)
        magnitudes = dequantise(
            _decode_levels(table, code, count, sender.levels),
            counts,
            scales_from_bytes(scales, counts.size),
            sender.levels,
        )
        negative = bits.unpack_flags(signs, count, "signs")
        values = np.zeros(segments.total, dtype=np.float32)
        values[positions] = np.where(negative, -magnitudes, magnitudes)
        return Decoded(segments.scatter(values), segments.lengths)

    def expected_bytes(self, shape: tuple[int, int, int]) -> float:
        segments = Segments.full(shape)
        counts = kept_counts(segments.sizes, self.keep_ratio)
        count = int(counts.sum())
        probabilities = estimate.level_probabilities(int(counts[0]), self.levels)
        coded_bits = (
            estimate.gap_bits(count, segments.total)
            + estimate.level_bits(count, probabilities)
            + count
        )
        side_bytes = overhead_bytes(SECTIONS) + SETTINGS.size + 8 * counts.size
        return side_bytes + coded_bits / 8


def _settings_from_bytes(data: bytes) -> tuple[PaperCodec, int]:
    """The sender's codec and its Golomb parameter."""
    if len(data) != SETTINGS.size:
        raise PacketError(f"settings: {len(data)} bytes, expected {SETTINGS.size}")
    keep_ratio, levels, parameter = SETTINGS.unpack(data)
    try:
        return PaperCodec(keep_ratio, levels), parameter
    except ConfigError as error:
        raise PacketError(f"settings: {error}") from error


def _encode_levels(levels: UInt8[np.ndarray, " kept"], intervals: int) -> tuple[bytes, bytes]:
    """The table and the code; both empty where nothing is kept."""
    if levels.size == 0:
        return b"", b""
    frequencies = normalised(np.bincount(levels, minlength=intervals + 1))
    return table_to_bytes(frequencies), rans.encode(levels, frequencies)


def _decode_levels(
    table: bytes, code: bytes, count: int, intervals: int
) -> UInt8[np.ndarray, " kept"]:
    if count == 0:
        if table or code:
            raise PacketError(f"levels: {len(table) + len(code)} bytes for none")
        return np.empty(0, dtype=np.uint8)
    return rans.decode(code, count, table_from_bytes(table, intervals + 1))


def _check_counts(
    positions: Int[np.ndarray, " kept"], segments: Segments, counts: Int[np.ndarray, " batch"]
) -> None:
    """Each sample must keep its own K: the scales and points are told apart by it."""
    ends = np.searchsorted(positions, np.cumsum(segments.sizes))
    if (np.diff(ends, prepend=0) != counts).any():
        raise PacketError("gaps: a sample does not keep as many values as its keep_ratio says")
