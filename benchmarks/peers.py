"""What a peer of the codec is, and all of them in a list.

Each peer is what somebody would otherwise send at the cut: a general compressor, a block-wise
number format, or Top-K with indices, from its published description. Peers get what favours them:
contexts are made once, one thread, their fast settings, no packet, no checksum, no lengths, and the
product's own C loops where they start from the paper's symbols.
"""

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Float32

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


def all_peers() -> list[Peer]:
    """Every peer of the comparison, in the order of the table."""
    # the modules below import this one
    from blockwise import HivemindBlockwise, HivemindUniform, Int8Blocks, Nf4Blocks
    from general import BLOSC_FLOAT, BLOSC_SYMBOLS, Compressor, Float16, Plain, Symbols
    from indexed import IndexedTopK
    from symbol_coder import ConstrictionSymbols

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
