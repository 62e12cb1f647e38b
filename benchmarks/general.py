"""General compressors (zstd, lz4, blosc2) on float32 and on the paper's symbols; float16."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import blosc2
import lz4.block
import numpy as np
import torch
import zstandard
from jaxtyping import Float32
from paper_symbols import PaperSymbols
from peers import Message, Peer


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
