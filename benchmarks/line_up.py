"""All peers of the comparison."""

from blockwise import HivemindBlockwise, HivemindUniform, Int8Blocks, Nf4Blocks
from general import BLOSC_FLOAT, BLOSC_SYMBOLS, Compressor, Float16, Plain, Symbols
from indexed import IndexedTopK
from peers import Peer
from symbol_coder import ConstrictionSymbols


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
