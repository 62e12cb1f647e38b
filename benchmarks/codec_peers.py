"""The codec's peers: what somebody would otherwise send at the cut.

A general compressor, a number format in blocks, or Top-K with indices, from its published
description. Peers get what favours them: contexts are made once, one thread, their fast settings,
no packet, no checksum, no lengths, and the product's own C loops where they start from the paper's
symbols.

Number formats: LLM.int8 and QLoRA (arXiv 2305.14314, NF4's 16 values in its appendix), 8-bit
optimisers (arXiv 2110.02861, the dynamic tree format), hivemind's uniform quantisation with
averaged buckets.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import blosc2
import constriction
import lz4.block
import numpy as np
import torch
import zstandard
from jaxtyping import Float32, Int8, Int64
from torch import Tensor
from torch.nn import functional

from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.codec.kernels.native import load_kernels
from cutlayer.codec.pipeline import TopK
from cutlayer.codec.quantisers import Quantised, StochasticLevels, TokenRows

Message = tuple[bytes | np.ndarray, ...]


class Peer(ABC):
    """A map from a tensor to buffers and back. What is not in the buffers both ends know."""

    name: str

    @abstractmethod
    def encode(self, tensor: Float32[np.ndarray, "batch token width"]) -> Message:
        """The buffers that would be sent, one after another."""

    @abstractmethod
    def decode(
        self, message: Message, shape: tuple[int, ...]
    ) -> Float32[np.ndarray, "batch token width"]:
        """The tensor, or what is left of it."""


def message_bytes(message: Message) -> int:
    """The length [bytes] of all buffers; nothing is charged for keeping them apart."""
    return sum(len(part) if isinstance(part, bytes) else part.nbytes for part in message)


KEEP_RATIO = 0.2
LEVELS = 7
_SPARSIFIER = TopK(KEEP_RATIO)
_QUANTISER = StochasticLevels(LEVELS)


@final
@dataclass(frozen=True)
class PaperSymbols:
    """Top-K of each sample and stochastic levels; symbols -8..8, 0 where dropped."""

    kernels: Kernels = field(default_factory=load_kernels)

    def quantise(
        self, tensor: Float32[np.ndarray, "batch token width"]
    ) -> tuple[Int8[np.ndarray, " value"], bytes]:
        """The symbols and the samples' extremes."""
        sizes = _sizes(tensor.shape)
        values = tensor.reshape(-1, tensor.shape[-1])
        kept = _SPARSIFIER.kept(values, sizes, self.kernels)
        rows = TokenRows(values, kept, sizes, step_ratio=1.0)
        made = _QUANTISER.quantise(rows, self.kernels, np.random.default_rng(0))
        return made.symbols.astype(np.int8).reshape(-1), made.settings

    def dequantise(
        self, symbols: Int8[np.ndarray, " value"], settings: bytes, shape: tuple[int, ...]
    ) -> Float32[np.ndarray, "batch token width"]:
        """The tensor that the symbols stand for."""
        rows = symbols.astype(np.int16).reshape(-1, shape[-1])
        made = Quantised(rows, settings)
        return _QUANTISER.dequantise(made, _sizes(shape), self.kernels).reshape(shape)


def _sizes(shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape[0], int(np.prod(shape[1:])), dtype=np.int64)


_REACH = LEVELS + 1


@final
class ConstrictionSymbols(Peer):
    """One categorical model, the symbols' own frequencies, which are sent as 16-bit numbers."""

    name = "constriction (range coder), paper's symbols"

    def __init__(self) -> None:
        self._paper = PaperSymbols()

    def encode(self, tensor: Float32[np.ndarray, "batch token width"]) -> Message:
        symbols, settings = self._paper.quantise(tensor)
        counts = np.bincount(symbols.view(np.uint8), minlength=256)
        shares = np.roll(counts, _REACH)[: 2 * _REACH + 1] / symbols.size
        sent = np.maximum(np.rint(shares * 65535), 1).astype(np.uint16)
        encoder = constriction.stream.queue.RangeEncoder()
        encoder.encode(symbols.astype(np.int32) + _REACH, _model(sent))
        return encoder.get_compressed(), sent, settings

    def decode(
        self, message: Message, shape: tuple[int, ...]
    ) -> Float32[np.ndarray, "batch token width"]:
        words, sent, settings = message
        decoder = constriction.stream.queue.RangeDecoder(np.asarray(words))
        symbols = decoder.decode(_model(np.asarray(sent)), int(np.prod(shape)))
        return self._paper.dequantise((symbols - _REACH).astype(np.int8), bytes(settings), shape)


def _model(sent: np.ndarray) -> constriction.stream.model.Categorical:
    shares = sent.astype(np.float32)
    return constriction.stream.model.Categorical(shares / shares.sum(), perfect=False)


@dataclass(frozen=True)
class Compressor:
    """Bytes to fewer bytes and back; the second function is told the length."""

    compress: Callable[[np.ndarray], bytes]
    decompress: Callable[[bytes, int], bytes]

    @classmethod
    def zstd(cls, level: int) -> "Compressor":
        """zstd with contexts made once."""
        inward, outward = zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()
        return cls(
            lambda data: inward.compress(data.view(np.uint8).data),
            lambda data, size: outward.decompress(data, max_output_size=size),
        )

    @classmethod
    def lz4(cls) -> "Compressor":
        """The block format, without a frame and its checksum."""
        return cls(
            lambda data: lz4.block.compress(data, store_size=False),
            lambda data, size: lz4.block.decompress(data, uncompressed_size=size),
        )

    @classmethod
    def blosc2(cls, item_bytes: int) -> "Compressor":
        """blosc2's bit shuffle before zstd, one thread."""
        settings = blosc2.CParams(
            codec=blosc2.Codec.ZSTD,
            clevel=1,
            typesize=item_bytes,
            filters=[blosc2.Filter.BITSHUFFLE],
            filters_meta=[0],
            nthreads=1,
        )
        reading = blosc2.DParams(nthreads=1)
        return cls(
            lambda data: blosc2.compress2(data, cparams=settings),
            lambda data, size: blosc2.decompress2(data, dparams=reading),
        )


BLOSC_FLOAT, BLOSC_SYMBOLS = Compressor.blosc2(4), Compressor.blosc2(1)


@final
@dataclass(frozen=True)
class Plain(Peer):
    """A compressor on the float32 values: nothing is lost."""

    name: str
    compressor: Compressor

    def encode(self, tensor: Float32[np.ndarray, "batch token width"]) -> Message:
        return (self.compressor.compress(tensor.reshape(-1)),)

    def decode(
        self, message: Message, shape: tuple[int, ...]
    ) -> Float32[np.ndarray, "batch token width"]:
        data = self.compressor.decompress(bytes(message[0]), 4 * int(np.prod(shape)))
        return np.frombuffer(data, dtype=np.float32).reshape(shape)


@final
@dataclass(frozen=True)
class Symbols(Peer):
    """The paper's symbols, a signed byte each, through a compressor."""

    name: str
    compressor: Compressor
    paper: PaperSymbols = field(default_factory=PaperSymbols)

    def encode(self, tensor: Float32[np.ndarray, "batch token width"]) -> Message:
        symbols, settings = self.paper.quantise(tensor)
        return self.compressor.compress(symbols), settings

    def decode(
        self, message: Message, shape: tuple[int, ...]
    ) -> Float32[np.ndarray, "batch token width"]:
        data, settings = (bytes(part) for part in message)
        symbols = np.frombuffer(
            self.compressor.decompress(data, int(np.prod(shape))), dtype=np.int8
        )
        return self.paper.dequantise(symbols, settings, shape)


@final
class Float16(Peer):
    """Half precision, which most frameworks send at best."""

    name = "float16"

    def encode(self, tensor: Float32[np.ndarray, "batch token width"]) -> Message:
        return (torch.from_numpy(tensor).half().numpy(),)

    def decode(
        self, message: Message, shape: tuple[int, ...]
    ) -> Float32[np.ndarray, "batch token width"]:
        return torch.from_numpy(np.asarray(message[0])).float().numpy()


_KEEP = 0.2


@final
@dataclass(frozen=True)
class IndexedTopK(Peer):
    """The largest 20 % of each sample, their places, and their values in `bits` (8 or 16).

    `packed`: the places in ceil(log2 N) bits each, else in 32. int8 has a scale for each sample.
    """

    name: str
    packed: bool
    bits: int

    def encode(self, tensor: Float32[np.ndarray, "batch token width"]) -> Message:
        samples = torch.from_numpy(tensor).flatten(1)
        count = max(1, int(_KEEP * samples.shape[1]))
        places = samples.abs().topk(count, dim=1, sorted=False).indices
        values = samples.gather(1, places)
        index = places.numpy().astype(np.uint32)
        sent = pack_bits(index, places_bits(samples.shape[1])) if self.packed else index
        if self.bits == 16:
            return sent, values.half().numpy()
        scales = values.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny)
        return sent, (values * (127.0 / scales)).round_().to(torch.int8).numpy(), scales.numpy()

    def decode(
        self, message: Message, shape: tuple[int, ...]
    ) -> Float32[np.ndarray, "batch token width"]:
        sent, coded, *scales = (np.asarray(part) for part in message)
        values = torch.from_numpy(coded).float()
        if scales:
            values *= torch.from_numpy(scales[0]) / 127.0
        size = int(np.prod(shape[1:]))
        if self.packed:
            places = unpack_bits(sent, places_bits(size), coded.size)
        else:
            places = sent.astype(np.int64)
        out = torch.zeros(shape[0], size)
        out.scatter_(1, torch.from_numpy(places).view(shape[0], -1), values)
        return out.view(shape).numpy()


def places_bits(size: int) -> int:
    """Bits [bit] that tell `size` places apart."""
    return max(1, (size - 1).bit_length())


def pack_bits(index: np.ndarray, width: int) -> np.ndarray:
    """The low `width` bits of each number, one after another: eight numbers to `width` bytes.

    Shifts on whole columns of numbers, which is many times faster than a bit at a time.
    """
    count = -(-index.size // 8)
    numbers = np.zeros((count, 8), dtype=np.uint64)
    numbers.reshape(-1)[: index.size] = index.reshape(-1)
    out = np.zeros((count, width), dtype=np.uint8)
    for place in range(8):
        first, shift = divmod(place * width, 8)
        shifted = numbers[:, place] << np.uint64(shift)
        for byte in range(-(-(shift + width) // 8)):
            out[:, first + byte] |= (shifted >> np.uint64(8 * byte)).astype(np.uint8)
    return out


def unpack_bits(data: np.ndarray, width: int, count: int) -> Int64[np.ndarray, " number"]:
    """`pack_bits` undone."""
    groups = data.reshape(-1, width)
    out = np.empty((len(groups), 8), dtype=np.int64)
    for place in range(8):
        first, shift = divmod(place * width, 8)
        whole = np.zeros(len(groups), dtype=np.uint64)
        for byte in range(-(-(shift + width) // 8)):
            whole |= groups[:, first + byte].astype(np.uint64) << np.uint64(8 * byte)
        out[:, place] = (whole >> np.uint64(shift)) & np.uint64(2**width - 1)
    return out.reshape(-1)[:count]


_BLOCK = 64
_DYNAMIC_BLOCK = 4096
_BUCKETS = 256
_RANGE_IN_SIGMAS = 6
_NF4 = (
    -1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
)  # fmt: skip


@final
class Int8Blocks(Peer):
    """round(127 x / m) with m the largest magnitude of each 64 values, a float32."""

    name = "int8, blocks of 64"

    def encode(self, tensor: Float32[np.ndarray, "batch token width"]) -> Message:
        blocks = _blocks(tensor, _BLOCK)
        scales = _largest(blocks)
        return (blocks * (127.0 / scales)).round_().to(torch.int8).numpy(), scales.numpy()

    def decode(
        self, message: Message, shape: tuple[int, ...]
    ) -> Float32[np.ndarray, "batch token width"]:
        levels, scales = (torch.from_numpy(np.asarray(part)) for part in message)
        return _trimmed(levels * (scales / 127.0), shape)


@final
class Nf4Blocks(Peer):
    """The nearest of 16 normal quantiles of x / m, two to a byte; m as above."""

    name = "NF4, blocks of 64"

    def __init__(self) -> None:
        self._nearest = Nearest(torch.tensor(_NF4))
        # both values of a byte in one look-up
        self._pairs = torch.cartesian_prod(torch.tensor(_NF4), torch.tensor(_NF4))

    def encode(self, tensor: Float32[np.ndarray, "batch token width"]) -> Message:
        blocks = _blocks(tensor, _BLOCK)
        scales = _largest(blocks)
        codes = self._nearest.codes(blocks / scales)
        return (codes[:, 0::2] << 4 | codes[:, 1::2]).numpy(), scales.numpy()

    def decode(
        self, message: Message, shape: tuple[int, ...]
    ) -> Float32[np.ndarray, "batch token width"]:
        codes, scales = (torch.from_numpy(np.asarray(part)) for part in message)
        values = self._pairs.index_select(0, codes.flatten().int()).view(-1, _BLOCK)
        return _trimmed(values.mul_(scales), shape)


@final
class HivemindUniform(Peer):
    """256 even buckets over six deviations around the mean; each decodes to its values' mean."""

    name = "hivemind uniform 8 bit"

    def encode(self, tensor: Float32[np.ndarray, "batch token width"]) -> Message:
        values = torch.from_numpy(tensor).flatten()
        mean = values.mean()
        step = _RANGE_IN_SIGMAS * (values - mean).std() / _BUCKETS
        codes = ((values - mean) / step).round_().add_(_BUCKETS // 2).clamp_(0, _BUCKETS - 1)
        buckets = codes.to(torch.int32)
        sums = torch.bincount(buckets, weights=values, minlength=_BUCKETS)
        counts = torch.bincount(buckets, minlength=_BUCKETS).clamp_(min=1)
        return buckets.to(torch.uint8).numpy(), (sums / counts).float().numpy()

    def decode(
        self, message: Message, shape: tuple[int, ...]
    ) -> Float32[np.ndarray, "batch token width"]:
        codes, book = (torch.from_numpy(np.asarray(part)) for part in message)
        return book.index_select(0, codes.int()).view(shape).numpy()


@final
class HivemindBlockwise(Peer):
    """The nearest of 256 dynamic values of x / m, m the largest of each 4096 values."""

    name = "hivemind block-wise 8 bit"

    def __init__(self) -> None:
        self._book = dynamic_codebook()
        self._nearest = Nearest(self._book)

    def encode(self, tensor: Float32[np.ndarray, "batch token width"]) -> Message:
        blocks = _blocks(tensor, _DYNAMIC_BLOCK)
        scales = _largest(blocks)
        codes = self._nearest.codes(blocks / scales)
        return codes.numpy(), scales.numpy()

    def decode(
        self, message: Message, shape: tuple[int, ...]
    ) -> Float32[np.ndarray, "batch token width"]:
        codes, scales = (torch.from_numpy(np.asarray(part)) for part in message)
        values = self._book.index_select(0, codes.flatten().int()).view(codes.shape)
        return _trimmed(values.mul_(scales), shape)


@final
class Nearest:
    """The place of the nearest value of a sorted book, by look-up: no search.

    The upper half of a float32 names a cell that no more than one edge between neighbours lies in;
    the code is the number of edges below the cell, and one more above the cell's own edge.
    """

    def __init__(self, book: Tensor) -> None:
        edges = ((book[1:] + book[:-1]) / 2).numpy()
        halves = np.arange(2**16, dtype=np.uint32) << 16
        ends = np.stack([halves.view(np.float32), (halves | 0xFFFF).view(np.float32)])
        with np.errstate(invalid="ignore"):
            below = np.searchsorted(edges, ends.min(0), side="left")
            above = np.searchsorted(edges, ends.max(0), side="left")
        inside = np.isfinite(ends).all(0)
        assert (above - below)[inside].max() <= 1, "two edges in one cell"
        own = edges[np.minimum(below, len(edges) - 1)]
        self._below = torch.from_numpy(np.where(inside, below, 0).astype(np.uint8))
        self._edge = torch.from_numpy(np.where(inside & (above > below), own, np.inf))

    def codes(self, values: Tensor) -> Tensor:
        """The place in the book [0, 255] of each value."""
        cells = torch.from_numpy(values.numpy().view(np.uint16)[..., 1::2].astype(np.int32))
        flat = cells.flatten()
        more = values.flatten() > self._edge.index_select(0, flat)
        return (self._below.index_select(0, flat) + more).view(values.shape)


def dynamic_codebook() -> Tensor:
    """Sign, a decimal exponent e in -6..0, and 2^(e+6) even steps of [0.1, 1] times 10^e; 0, 1."""
    positive = [
        10.0 ** (power - 6) * (0.1 + 0.9 * (place + 0.5) / 2**power)
        for power in range(7)
        for place in range(2**power)
    ]
    return torch.tensor(sorted([*positive, *(-value for value in positive), 0.0, 1.0]))


def _blocks(tensor: np.ndarray, size: int) -> Tensor:
    flat = torch.from_numpy(tensor).flatten()
    missing = -flat.numel() % size
    return (functional.pad(flat, (0, missing)) if missing else flat).view(-1, size)


def _largest(blocks: Tensor) -> Tensor:
    """The largest magnitude of each block; the smallest float for a block of zeros."""
    low, high = torch.aminmax(blocks, dim=1, keepdim=True)
    return torch.maximum(-low, high).clamp_(min=torch.finfo(torch.float32).tiny)


def _trimmed(blocks: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    return blocks.flatten()[:count].view(shape).numpy()


def all_peers() -> list[Peer]:
    """Every peer of the comparison, in the order of the table."""
    lz4, zstd1, zstd3 = Compressor.lz4(), Compressor.zstd(1), Compressor.zstd(3)
    return [
        Plain("zstd-1, float32", zstd1),
        Plain("zstd-3, float32", zstd3),
        Plain("lz4, float32", lz4),
        Plain("blosc2 (bitshuffle, zstd-1), float32", BLOSC_FLOAT),
        Symbols("zstd-1, paper's symbols", zstd1),
        Symbols("zstd-3, paper's symbols", zstd3),
        Symbols("lz4, paper's symbols", lz4),
        Symbols("blosc2 (bitshuffle, zstd-1), paper's symbols", BLOSC_SYMBOLS),
        ConstrictionSymbols(),
        Float16(),
        Int8Blocks(),
        Nf4Blocks(),
        HivemindUniform(),
        HivemindBlockwise(),
        IndexedTopK("Top-K 20 %, int32 index, float16", packed=False, bits=16),
        IndexedTopK("Top-K 20 %, int32 index, int8", packed=False, bits=8),
        IndexedTopK("Top-K 20 %, packed index, float16", packed=True, bits=16),
        IndexedTopK("Top-K 20 %, packed index, int8", packed=True, bits=8),
    ]
