"""Arrays on a torch device, and the only two ways across: `of` and `to_host`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeVar, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int16, Int32, Int64, Shaped, UInt8, UInt16
from torch import Tensor

from cutlayer.codec.codec import Codec, CodecState, Decoded, Encoded
from cutlayer.codec.kernels.adaptive_bits import BitReader, BitWriter
from cutlayer.codec.kernels.kernels import (
    Arrays,
    ContextModel,
    Described,
    Hazards,
    Integers,
    Kernels,
    Moments,
    Sizes,
    Symbols,
    SymbolSums,
    check_bits,
    check_block,
    check_segments,
)
from cutlayer.codec.kernels.portable import mix_keys
from cutlayer.codec.staged import StagedCodec
from cutlayer.errors import ConfigError, PacketError, others_code, quoted
from cutlayer.model.placement import HOST, to_device

T = TypeVar("T")


@final
@dataclass(frozen=True)
class DeviceArrays(Arrays):
    """See `Arrays`. Whatever is int16 crosses in one byte each where all of it fits. Float64 is the
    processor's alone: not every accelerator has it."""

    device: torch.device

    def of(self, array: Shaped[np.ndarray | Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        if isinstance(array, Tensor):
            return to_device(self._known(array), self.device).contiguous()
        # a copy: torch takes no array that may not be written to
        host = np.array(array)
        if host.dtype != np.int16:
            return to_device(self._known(torch.from_numpy(host)), self.device)
        small = host.astype(np.int8)
        narrow = small if np.array_equal(small, host) else host
        return to_device(torch.from_numpy(narrow), self.device).short()

    def to_host(self, array: Shaped[Tensor, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
        if array.dtype is not torch.int16:
            return _arrived(array)[0]
        small = array.char()
        # together, so that the host waits once
        narrow, fits = _arrived(small, (small == array).all())
        return (narrow if fits else _arrived(array)[0]).astype(np.int16)

    def _known(self, array: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """In numbers that the device has."""
        return array.float() if array.dtype is torch.float64 and self._accelerator else array

    @property
    def _accelerator(self) -> bool:
        return self.device != HOST

    def full(
        self, shape: tuple[int, ...], value: float, dtype: type[np.generic]
    ) -> Shaped[Tensor, "..."]:
        same = self._known(torch.from_numpy(np.zeros(0, dtype=dtype))).dtype
        return torch.full(shape, value, dtype=same, device=self.device)

    def wide(self, array: Float32[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return array if self._accelerator else array.double()

    def energies(self, values: Float32[Tensor, "row column"]) -> Float32[np.ndarray, " column"]:
        return self.to_host((values * values).sum(0))

    def places(
        self, edges: Float32[np.ndarray, " edge"], values: Float32[Tensor, "row column"]
    ) -> Int16[Tensor, "row column"]:
        return torch.searchsorted(self.of(edges), values, right=True).short()


def _arrived(*tensors: Shaped[Tensor, "..."]) -> list[Shaped[np.ndarray, "..."]]:
    """On the host, which waits for them; over memory that is pinned where the device is CUDA, and
    once for all."""
    device = tensors[0].device
    if device.type != "cuda":
        return [np.asarray(tensor.cpu().numpy()) for tensor in tensors]
    pinned = [torch.empty(each.shape, dtype=each.dtype, pin_memory=True) for each in tensors]
    for to, tensor in zip(pinned, tensors, strict=True):
        to.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(device).synchronize()
    return [np.asarray(each.numpy()) for each in pinned]


# The 32 random bits of an index and a seed, in torch; `Kernels` defines them.
#
# torch has no arithmetic of unsigned 32-bit numbers, so they are held in int64: its products wrap
# modulo 2^64, which leaves the lower 32 bits as they should be.


_LOW_32 = 0xFFFFFFFF


def mix(count: int, seed: int, device: torch.device) -> Int64[Tensor, " i"]:
    """The mix of 0, 1, ... count - 1 and the seed, each within 0..2^32-1."""
    a, b = mix_keys(seed)
    x = (torch.arange(count, device=device) * 0x9E3779B9 + a) & _LOW_32
    x = (x ^ x >> 16) * 0x7FEB352D & _LOW_32
    x = ((x ^ x >> 15) + b) * 0x846CA68B & _LOW_32
    return x ^ x >> 16


# The codec's loops over values in torch; those over symbols stay the host's.
#
# Each is the plain form of its definition in `codec/kernels/kernels.py`: float32 operations value
# by value in the same order, so symbols are those of the host. Knows nothing of stages or packets.


LARGEST = 32767.0


@final
class DeviceKernels(Kernels):
    """See `Kernels`. `host`: the loops over symbols."""

    def __init__(self, device: torch.device, host: Kernels) -> None:
        self._arrays = DeviceArrays(device)
        self._host = host

    @property
    def arrays(self) -> DeviceArrays:
        return self._arrays

    def top_k(
        self, values: Float32[Tensor, " value"], sizes: Sizes, counts: Sizes
    ) -> UInt8[Tensor, " value"]:
        check_segments(len(values), sizes)
        magnitudes = values.abs()
        kept = torch.zeros_like(values, dtype=torch.uint8)
        for run in _runs(sizes, counts):
            x = magnitudes[run.place].reshape(-1, run.size)
            if run.count <= 0 or run.count >= run.size:
                kept[run.place] = run.count > 0
                continue
            threshold = x.topk(run.count, dim=1).values[:, -1:]
            above, equal = x > threshold, x == threshold
            left = run.count - above.sum(dim=1, keepdim=True)
            kept[run.place] = (above | equal & (equal.cumsum(dim=1) <= left)).reshape(-1)
        return kept

    def largest(self, values: Float32[Tensor, "..."]) -> float:
        if values.numel() == 0:
            return 0.0
        largest = float(self._arrays.to_host(values.abs().amax()))
        return largest if np.isfinite(largest) else np.inf

    def extremes(
        self, values: Float32[Tensor, " value"], kept: UInt8[Tensor, " value"], sizes: Sizes
    ) -> Float32[np.ndarray, "2 segment"]:
        check_segments(len(values), sizes)
        magnitudes, counts = values.abs(), kept != 0
        low = torch.where(counts, magnitudes, torch.inf)
        high = torch.where(counts, magnitudes, -torch.inf)
        found = torch.zeros((2, sizes.size), dtype=torch.float32, device=values.device)
        for run in _runs(sizes, sizes):
            found[0, run.segments] = low[run.place].reshape(-1, run.size).amin(dim=1)
            found[1, run.segments] = high[run.place].reshape(-1, run.size).amax(dim=1)
        return self._arrays.to_host(torch.where(found.isfinite(), found, 0.0))

    def quantise_levels(
        self,
        values: Float32[Tensor, " value"],
        kept: UInt8[Tensor, " value"],
        sizes: Sizes,
        extremes: Float32[np.ndarray, "2 segment"],
        levels: int,
        seed: int,
    ) -> Int16[Tensor, " value"]:
        check_segments(len(values), sizes)
        spans = extremes[1] - extremes[0]
        spans[spans == 0] = 1
        low, span = (self._spread(each, sizes) for each in (extremes[0], spans))
        noise = (mix(len(values), seed, values.device) >> 8).float() * 2.0**-24
        at = (values.abs() - low) / span * float(levels) + noise
        symbols = at.clamp(0.0, float(levels)).int() + 1
        return _signed(torch.where(kept != 0, symbols, 0), values < 0)

    def dequantise_points(
        self,
        symbols: Int16[Tensor, " value"],
        sizes: Sizes,
        points: Float32[np.ndarray, "segment point"],
    ) -> Float32[Tensor, " value"]:
        check_segments(len(symbols), sizes)
        magnitudes = symbols.long().abs()
        if self._largest(magnitudes) > points.shape[1]:
            raise PacketError("a symbol is larger than the number of points")
        with_zero = np.concatenate([np.zeros((sizes.size, 1), np.float32), points], axis=1)
        begins = self._spread(np.arange(sizes.size) * with_zero.shape[1], sizes)
        found = self._arrays.of(with_zero.reshape(-1))[begins + magnitudes]
        return _with_signs(found, symbols)

    def quantise_dead_zone(
        self, values: Float32[Tensor, " value"], step: np.float32, rounding: np.float32
    ) -> tuple[Int16[Tensor, " value"], Moments]:
        sizes = (values.abs() * float(np.float32(1) / step)).clamp(max=LARGEST)
        levels = (sizes + float(rounding)).int()
        excess = (sizes * 4096.0).int() - levels * 4096
        one, more = levels == 1, levels > 1
        sums = [one.sum(), (excess * one).sum(), more.sum(), (excess * more).sum()]
        moments = Moments(*self._arrays.to_host(torch.stack(sums)).tolist())
        return _signed(levels, values < 0), moments

    def dequantise_dead_zone(
        self,
        symbols: Int16[Tensor, " value"],
        step: np.float32,
        shift_one: np.float32,
        shift_more: np.float32,
    ) -> Float32[Tensor, " value"]:
        sizes = symbols.float().abs()
        shifts = torch.where(sizes > 1, float(shift_more), float(shift_one)).float()
        return _with_signs((sizes + shifts) * float(step), symbols)

    def quantise_rows(
        self, values: Float32[Tensor, "row column"], bits: int, block: int = 1
    ) -> tuple[Int16[Tensor, "row column"], Float32[np.ndarray, " row"]]:
        check_bits(bits)
        if block != 1:
            values = self.hadamard(values, block, inverse=False)
        scales = torch.zeros_like(values[:, :1])
        if values.shape[1]:
            scales = values.abs().amax(dim=1, keepdim=True)
        # torch multiplies a number by the reciprocal, which would round twice
        ratios = torch.full_like(scales, 2 ** (bits - 1) - 1) / scales
        zero = ~ratios.isfinite()
        scales, ratios = torch.where(zero, 0.0, scales), torch.where(zero, 0.0, ratios)
        on_host = self._arrays.to_host(scales.reshape(-1))
        if bits > 2:
            return (values * ratios).round().short(), on_host
        large = (values.abs() > scales * 0.5) & ~zero
        return _signed(1 + large.int(), (values < 0) & ~zero), on_host

    def dequantise_rows(
        self,
        symbols: Int16[Tensor, "row column"],
        scales: Float32[np.ndarray, " row"],
        bits: int,
        block: int = 1,
    ) -> Float32[Tensor, "row column"]:
        check_bits(bits)
        if block != 1:
            turned = self.dequantise_rows(symbols, scales, bits)
            return self.hadamard(turned, block, inverse=True)
        if bits > 2:
            steps = self._arrays.of(scales / np.float32(2 ** (bits - 1) - 1))
            return symbols.float() * steps[:, None]
        halves = self._arrays.of(scales * np.float32(0.5))
        return _with_signs((symbols.float().abs() - 0.5) * halves[:, None], symbols)

    def hadamard(
        self, values: Float32[Tensor, "row column"], block: int, *, inverse: bool
    ) -> Float32[Tensor, "row column"]:
        rows, columns = values.shape
        check_block(columns, block)
        signs = 1.0 - 2.0 * (mix(columns, 0, values.device) & 1).float()
        out = values if inverse else values * signs
        half = 1
        while half < block:
            pairs = out.reshape(rows, columns // (2 * half), 2, half)
            a, b = pairs[:, :, 0], pairs[:, :, 1]
            out = torch.stack([a + b, a - b], dim=2).reshape(rows, columns)
            half *= 2
        out = out * float(np.float32(1 / np.sqrt(block)))
        return out * signs if inverse else out

    def turn(
        self,
        values: Float32[Tensor, "row width"],
        mean: Float32[Tensor, " width"] | None,
        basis: Float32[Tensor, "width component"],
    ) -> Float32[Tensor, "row component"]:
        return (values if mean is None else values - mean) @ basis

    def turn_back(
        self,
        values: Float32[Tensor, "row some"],
        mean: Float32[Tensor, " width"] | None,
        basis: Float32[Tensor, "width component"],
    ) -> Float32[Tensor, "row width"]:
        turned = values @ basis[:, : values.shape[1]].T
        return turned if mean is None else turned + mean

    def start(self, work: Callable[[], T]) -> Callable[[], T]:
        found = work()
        return lambda: found

    def sums(self, symbols: Symbols) -> SymbolSums:
        return self._host.sums(symbols)

    def described(self, symbols: Symbols) -> Described | None:
        return self._host.described(symbols)

    def histogram(self, symbols: Symbols, model: ContextModel) -> Int64[np.ndarray, "table symbol"]:
        return self._host.histogram(symbols, model)

    def rans_encode(self, symbols: Symbols, model: ContextModel, chunks: int) -> list[bytes]:
        return self._host.rans_encode(symbols, model, chunks)

    def rans_decode(self, codes: list[bytes], model: ContextModel, columns: int) -> Symbols:
        return self._host.rans_decode(codes, model, columns)

    def pack(self, symbols: Int16[np.ndarray, " value"], width: int, offset: int = 0) -> bytes:
        return self._host.pack(symbols, width, offset)

    def unpack(self, data: bytes, count: int, width: int) -> Int16[np.ndarray, " value"]:
        return self._host.unpack(data, count, width)

    def write_hazards(
        self,
        counts: Int64[np.ndarray, "kind magnitude"],
        sizes: Integers,
        edges: Integers,
        writer: BitWriter,
    ) -> Hazards:
        return self._host.write_hazards(counts, sizes, edges, writer)

    def read_hazards(
        self, sizes: Integers, reach: int, edges: Integers, reader: BitReader
    ) -> Hazards:
        return self._host.read_hazards(sizes, reach, edges, reader)

    def magnitude_shares(self, hazards: Hazards) -> Int64[np.ndarray, "kind magnitude"]:
        return self._host.magnitude_shares(hazards)

    def twelve_bits(
        self, weights: Int64[np.ndarray, "table symbol"]
    ) -> UInt16[np.ndarray, "table symbol"]:
        return self._host.twelve_bits(weights)

    def short_encode(
        self, symbols: Integers, table: UInt16[np.ndarray, " symbol"], state: int
    ) -> tuple[int, list[int]]:
        return self._host.short_encode(symbols, table, state)

    def short_decode(
        self,
        words: UInt16[np.ndarray, " word"],
        count: int,
        table: UInt16[np.ndarray, " symbol"],
        state: int,
    ) -> tuple[Integers, int, int]:
        return self._host.short_decode(words, count, table, state)

    def _largest(self, magnitudes: Int64[Tensor, " value"]) -> int:
        return int(self._arrays.to_host(magnitudes.amax())) if len(magnitudes) else 0

    def _spread(
        self, each: Float32[np.ndarray, " segment"] | Sizes, sizes: Sizes
    ) -> Float32[Tensor, " value"] | Int64[Tensor, " value"]:
        """A number of each segment, for each of its values."""
        of = self._arrays.of
        return of(each).repeat_interleave(of(sizes), output_size=int(sizes.sum()))


@dataclass(frozen=True)
class _Run:
    """Neighbouring segments of one size and count: which they are, and where their values are."""

    segments: slice
    place: slice
    size: int
    count: int


def _runs(sizes: Sizes, counts: Sizes) -> Iterator[_Run]:
    """All segments that are not empty, as many at once as are alike."""
    segment = place = 0
    for (size, count), run in groupby(zip(sizes.tolist(), counts.tolist(), strict=True)):
        number = len(list(run))
        end = segment + number, place + number * size
        if size:
            yield _Run(slice(segment, end[0]), slice(place, end[1]), size, count)
        segment, place = end


def _signed(
    sizes: Int32[Tensor, "*shape"], negative: Bool[Tensor, "*shape"]
) -> Int16[Tensor, "*shape"]:
    return torch.where(negative, -sizes, sizes).short()


def _with_signs(
    magnitudes: Float32[Tensor, "*shape"], symbols: Int16[Tensor, "*shape"]
) -> Float32[Tensor, "*shape"]:
    """The magnitudes with the symbols' signs, 0.0 where the symbol is 0."""
    magnitudes = torch.where(symbols == 0, 0.0, magnitudes)
    return torch.where(symbols < 0, -magnitudes, magnitudes)


# A codec for torch tensors, where their device says.
#
# Knows which codecs can work on a device; nothing of streams or rounds.


@dataclass(frozen=True, eq=False)
class Arrived:
    """See `Decoded`; the tensor is on the receiver's device."""

    tensor: Float32[Tensor, "..."]
    lengths: tuple[int, ...]
    state: CodecState


@final
@dataclass(frozen=True)
class TensorCodec:
    """`codec` between tensors on `device`: its arrays are there where `stays`, else they cross."""

    codec: Codec
    device: torch.device
    stays: bool

    def encode(
        self,
        tensor: Float32[Tensor, "..."],
        state: CodecState,
        rng: np.random.Generator,
        *,
        lengths: Sequence[int] | None = None,
        samples: Sequence[int] | None = None,
    ) -> Encoded:
        own = tensor.detach()
        array = own if self.stays else DeviceArrays(self.device).to_host(own)
        with others_code(self.codec, "encode"):
            encoded: object = self.codec.encode(array, state, rng, lengths=lengths, samples=samples)
        if not (isinstance(encoded, Encoded) and isinstance(encoded.packet, bytes)):
            raise self._broken("encode", "an Encoded with the bytes of a packet", encoded)
        return encoded

    def decode(self, packet: bytes, shape: tuple[int, ...], state: CodecState) -> Arrived:
        decoded = self._decoded(packet, shape, state)
        tensor = decoded.tensor
        if not self.stays:
            tensor = to_device(torch.from_numpy(tensor), self.device)
        return Arrived(tensor, decoded.lengths, decoded.state)

    def _decoded(self, packet: bytes, shape: tuple[int, ...], state: CodecState) -> Decoded:
        """What the codec makes of the packet; another package's may make anything."""
        with others_code(self.codec, "decode"):
            decoded: object = self.codec.decode(packet, shape, state)
        if not isinstance(decoded, Decoded):
            raise self._broken("decode", "a Decoded", decoded)
        tensor, lengths = decoded.tensor, decoded.lengths
        if tensor.shape != shape or str(tensor.dtype).removeprefix("torch.") != "float32":
            made = f"{tensor.dtype} of {list(tensor.shape)}"
            raise self._broken("decode", f"a tensor of float32 of {list(shape)}", made)
        if len(lengths) != shape[0]:
            raise self._broken("decode", f"the lengths of {shape[0]} samples", lengths)
        if not isinstance(tensor, np.ndarray):
            return decoded
        if not np.isfinite(tensor).all():
            raise PacketError("values that are NaN or infinite")
        # torch takes none that is read from a packet's own bytes
        return decoded if tensor.flags.writeable else replace(decoded, tensor=tensor.copy())

    def _broken(self, method: str, wanted: str, given: object) -> ConfigError:
        name = f"{type(self.codec).__name__}.{method}"
        return ConfigError(f"{name} should give {wanted}, not {quoted(given)}")


def for_device(codec: Codec, device: torch.device) -> TensorCodec:
    """`codec` for tensors on `device`: on the host for the processor's own and for codecs that send
    or remember float32 as it is, on the device otherwise."""
    if device.type == "cpu" or not isinstance(codec, StagedCodec):
        return TensorCodec(codec, device, stays=False)
    return on_device(codec, device)


def on_device(codec: StagedCodec, device: torch.device) -> TensorCodec:
    """`codec` with all its values on `device`, whichever that is: symbols and small statistics
    cross to the host, where the entropy coder is."""
    kernels = DeviceKernels(device, codec.kernels)
    return TensorCodec(replace(codec, kernels=kernels), device, stays=True)
