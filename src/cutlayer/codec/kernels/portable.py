"""The hot loops in numpy, for machines without the C part: the same bytes, several times slower.

Each method is the shortest plain form of its definition in `kernels.py`; the tests hold the C code
against it. The entropy coder, the one loop that numpy cannot take at once, is `portable_rans.py`.
"""

from itertools import pairwise
from typing import final

import numpy as np
from jaxtyping import Bool, Float32, Int16, Int32, Int64, UInt8, UInt32

from cutlayer.codec.kernels import portable_rans
from cutlayer.codec.kernels.kernels import (
    ContextModel,
    Kernels,
    Moments,
    SymbolSums,
    check_bits,
    check_block,
    check_model,
    check_packed,
    check_segments,
    check_width,
)
from cutlayer.errors import PacketError

LARGEST = np.float32(32767)
HALF = np.float32(0.5)


def bias(x: UInt32[np.ndarray, " i"]) -> UInt32[np.ndarray, " i"]:
    """32 bits mixed; see `Kernels`."""
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x7FEB352D)
    x = (x ^ x >> np.uint32(15)) * np.uint32(0x846CA68B)
    return np.asarray(x ^ x >> np.uint32(16))


def mix_keys(seed: int) -> tuple[int, int]:
    """The keys a and b of a seed; see `Kernels`."""
    low, high = np.array([[seed & 0xFFFFFFFF], [seed >> 32 & 0xFFFFFFFF]], dtype=np.uint32)
    a = bias(low)
    return int(a[0]), int(bias(high + a)[0])


def mix(count: int, seed: int) -> UInt32[np.ndarray, " i"]:
    """The mix of 0, 1, ... count - 1 and the seed; see `Kernels`."""
    a, b = (np.uint32(key) for key in mix_keys(seed))
    x = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9) + a
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x7FEB352D)
    x = ((x ^ x >> np.uint32(15)) + b) * np.uint32(0x846CA68B)
    return np.asarray(x ^ x >> np.uint32(16))


def _segments(sizes: Int64[np.ndarray, " segment"]) -> list[slice]:
    """Each segment's place."""
    edges = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    return [slice(first, last) for first, last in pairwise(edges)]


def _signed(
    sizes: Int32[np.ndarray, "*shape"], negative: Bool[np.ndarray, "*shape"]
) -> Int16[np.ndarray, "*shape"]:
    return np.where(negative, -sizes, sizes).astype(np.int16)


def _with_signs(
    magnitudes: Float32[np.ndarray, "*shape"], symbols: Int16[np.ndarray, "*shape"]
) -> Float32[np.ndarray, "*shape"]:
    """The magnitudes with the symbols' signs, 0.0 where the symbol is 0."""
    magnitudes[symbols == 0] = 0
    return np.where(symbols < 0, -magnitudes, magnitudes)


@final
class Portable(Kernels):
    """See `Kernels`."""

    def top_k(
        self,
        values: Float32[np.ndarray, " value"],
        sizes: Int64[np.ndarray, " segment"],
        counts: Int64[np.ndarray, " segment"],
    ) -> UInt8[np.ndarray, " value"]:
        """See `Kernels.top_k`."""
        check_segments(values.size, sizes)
        magnitudes = np.abs(values)
        kept = np.zeros(values.size, dtype=np.uint8)
        for place, count in zip(_segments(sizes), counts.tolist(), strict=True):
            x, marks = magnitudes[place], kept[place]
            if count <= 0 or count >= x.size:
                marks[:] = count > 0
                continue
            threshold = np.partition(x, x.size - count)[x.size - count]
            marks[:] = x > threshold
            marks[np.flatnonzero(x == threshold)[: count - int(marks.sum())]] = 1
        return kept

    def largest(self, values: Float32[np.ndarray, "..."]) -> float:
        """See `Kernels.largest`."""
        if values.size == 0:
            return 0.0
        # a NaN passes through both
        largest = max(float(values.max()), -float(values.min()))
        return largest if np.isfinite(largest) else np.inf

    def extremes(
        self,
        values: Float32[np.ndarray, " value"],
        kept: UInt8[np.ndarray, " value"],
        sizes: Int64[np.ndarray, " segment"],
    ) -> Float32[np.ndarray, "2 segment"]:
        """See `Kernels.extremes`."""
        check_segments(values.size, sizes)
        found = np.zeros((2, sizes.size), dtype=np.float32)
        for segment, place in enumerate(_segments(sizes)):
            x = np.abs(values[place][kept[place] != 0])
            if x.size:
                found[:, segment] = x.min(), x.max()
        return found

    def quantise_levels(
        self,
        values: Float32[np.ndarray, " value"],
        kept: UInt8[np.ndarray, " value"],
        sizes: Int64[np.ndarray, " segment"],
        extremes: Float32[np.ndarray, "2 segment"],
        levels: int,
        seed: int,
    ) -> Int16[np.ndarray, " value"]:
        """See `Kernels.quantise_levels`."""
        check_segments(values.size, sizes)
        spans = extremes[1] - extremes[0]
        spans[spans == 0] = 1
        low, span = np.repeat(extremes[0], sizes), np.repeat(spans, sizes)
        noise = (mix(values.size, seed) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
        # what is not kept may be far outside; the clips make its conversion defined
        with np.errstate(over="ignore"):
            at = (np.abs(values) - low) / span * np.float32(levels) + noise
        at = np.where(at > 0, at, np.float32(0))
        at = np.where(at < np.float32(levels), at, np.float32(levels))
        return _signed(np.where(kept != 0, at.astype(np.int32) + 1, 0).astype(np.int32), values < 0)

    def dequantise_points(
        self,
        symbols: Int16[np.ndarray, " value"],
        sizes: Int64[np.ndarray, " segment"],
        points: Float32[np.ndarray, "segment point"],
    ) -> Float32[np.ndarray, " value"]:
        """See `Kernels.dequantise_points`."""
        check_segments(symbols.size, sizes)
        magnitudes = np.abs(symbols.astype(np.int32))
        if magnitudes.max(initial=0) > points.shape[1]:
            raise PacketError("a symbol is larger than the number of points")
        with_zero = np.concatenate([np.zeros((sizes.size, 1), np.float32), points], axis=1)
        segment = np.repeat(np.arange(sizes.size), sizes)
        return _with_signs(with_zero[segment, magnitudes], symbols)

    def quantise_dead_zone(
        self, values: Float32[np.ndarray, " value"], step: np.float32, rounding: np.float32
    ) -> tuple[Int16[np.ndarray, " value"], Moments]:
        """See `Kernels.quantise_dead_zone`."""
        with np.errstate(over="ignore"):
            sizes = np.abs(values) * (np.float32(1) / step)
        sizes = np.where(sizes < LARGEST, sizes, LARGEST)
        levels = (sizes + rounding).astype(np.int32)
        # |x| / step - level is exact in float32, so the difference of the parts is its floor
        excess = (sizes * np.float32(4096)).astype(np.int32) - levels * 4096
        one, more = levels == 1, levels > 1
        moments = Moments(
            ones=int(one.sum()),
            ones_excess=int(excess[one].sum(dtype=np.int64)),
            more=int(more.sum()),
            more_excess=int(excess[more].sum(dtype=np.int64)),
        )
        return _signed(levels, values < 0), moments

    def dequantise_dead_zone(
        self,
        symbols: Int16[np.ndarray, " value"],
        step: np.float32,
        shift_one: np.float32,
        shift_more: np.float32,
    ) -> Float32[np.ndarray, " value"]:
        """See `Kernels.dequantise_dead_zone`."""
        sizes = np.abs(symbols.astype(np.float32))
        return _with_signs((sizes + np.where(sizes > 1, shift_more, shift_one)) * step, symbols)

    def quantise_rows(
        self, values: Float32[np.ndarray, "row column"], bits: int, block: int = 1
    ) -> tuple[Int16[np.ndarray, "row column"], Float32[np.ndarray, " row"]]:
        """See `Kernels.quantise_rows`."""
        check_bits(bits)
        if block != 1:
            values = self.hadamard(values, block, inverse=False)
        scales = np.abs(values).max(axis=1, initial=0).astype(np.float32)
        with np.errstate(divide="ignore", over="ignore"):
            ratios = np.float32(2 ** (bits - 1) - 1) / scales
        zero = ~np.isfinite(ratios)
        scales[zero] = 0
        ratios[zero] = 0
        if bits > 2:
            return np.rint(values * ratios[:, None]).astype(np.int16), scales
        large = (np.abs(values) > (scales * HALF)[:, None]) & ~zero[:, None]
        return _signed(1 + large.astype(np.int32), (values < 0) & ~zero[:, None]), scales

    def dequantise_rows(
        self,
        symbols: Int16[np.ndarray, "row column"],
        scales: Float32[np.ndarray, " row"],
        bits: int,
        block: int = 1,
    ) -> Float32[np.ndarray, "row column"]:
        """See `Kernels.dequantise_rows`."""
        check_bits(bits)
        if block != 1:
            turned = self.dequantise_rows(symbols, scales, bits)
            return self.hadamard(turned, block, inverse=True)
        if bits > 2:
            steps = scales / np.float32(2 ** (bits - 1) - 1)
            return symbols.astype(np.float32) * steps[:, None]
        sizes = np.abs(symbols.astype(np.float32))
        return _with_signs((sizes - HALF) * (scales * HALF)[:, None], symbols)

    def hadamard(
        self, values: Float32[np.ndarray, "row column"], block: int, *, inverse: bool
    ) -> Float32[np.ndarray, "row column"]:
        """See `Kernels.hadamard`."""
        rows, columns = values.shape
        check_block(columns, block)
        odd = mix(columns, 0) & np.uint32(1)
        signs = np.where(odd, np.float32(-1), np.float32(1))
        out = values.copy() if inverse else values * signs
        half = 1
        while half < block:
            pairs = out.reshape(rows, columns // (2 * half), 2, half)
            a, b = pairs[:, :, 0], pairs[:, :, 1]
            out = np.stack([a + b, a - b], axis=2).reshape(rows, columns)
            half *= 2
        out = out * np.float32(1 / np.sqrt(block))
        return out * signs if inverse else out

    def sums(self, symbols: Int16[np.ndarray, "row column"]) -> SymbolSums:
        """See `Kernels.sums`."""
        sizes = np.abs(symbols.astype(np.int32))
        return SymbolSums(
            rows=sizes.sum(axis=1, dtype=np.int64),
            columns=sizes.sum(axis=0, dtype=np.int64),
            signs=np.sign(symbols).sum(axis=0, dtype=np.int64),
            largest=int(sizes.max(initial=0)),
        )

    def histogram(
        self, symbols: Int16[np.ndarray, "row column"], model: ContextModel
    ) -> Int64[np.ndarray, "table symbol"]:
        """See `Kernels.histogram`."""
        check_model(model, *symbols.shape)
        places = portable_rans.places(symbols, model, 0, symbols.shape[0])
        counts = np.bincount(places, minlength=model.frequencies.size)
        return counts.astype(np.int64).reshape(model.frequencies.shape)

    def rans_encode(
        self, symbols: Int16[np.ndarray, "row column"], model: ContextModel, chunks: int
    ) -> list[bytes]:
        """See `Kernels.rans_encode`."""
        return portable_rans.encode(symbols, model, chunks)

    def rans_decode(
        self, codes: list[bytes], model: ContextModel, columns: int
    ) -> Int16[np.ndarray, "row column"]:
        """See `Kernels.rans_decode`."""
        return portable_rans.decode(codes, model, columns)

    def pack(self, symbols: Int16[np.ndarray, " value"], width: int, offset: int = 0) -> bytes:
        """See `Kernels.pack`."""
        check_width(width)
        low_first = (symbols + np.int16(offset)).astype("<i2").view(np.uint8).reshape(-1, 2)
        bits = np.unpackbits(low_first, axis=1, bitorder="little", count=width)
        return np.packbits(bits, bitorder="little").tobytes()

    def unpack(self, data: bytes, count: int, width: int) -> Int16[np.ndarray, " value"]:
        """See `Kernels.unpack`."""
        check_packed(data, count, width)
        packed = np.frombuffer(data, dtype=np.uint8)
        bits = np.unpackbits(packed, count=count * width, bitorder="little").reshape(count, width)
        low_first = np.packbits(bits, axis=1, bitorder="little")
        wide = np.zeros((count, 2), dtype=np.uint8)
        wide[:, : low_first.shape[1]] = low_first
        return wide.view("<i2").reshape(count).astype(np.int16)
