"""Two-way contexts: each symbol is coded by the table that its row's and its column's score choose.

Rows differ in size (tokens with a large gradient), columns too (strong channels), and the product
of the two scales says nearly all about how a symbol is distributed. So the side information is a
score for each row and column (`scores`), a sign skew for columns that prefer a sign, and a few
dozen tables (`tables`); rows and columns of zeros alone cost next to nothing. Every choice that
the encoder makes is in the section "model"; long series of scores have sections of their own.

Prefer it always, but where 10 ns a symbol are too slow. Knows nothing of what symbols mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float64, Int16, Int64, UInt16

from cutlayer.codec.entropy import tables
from cutlayer.codec.entropy.adaptive_bits import BitReader, BitWriter, Number
from cutlayer.codec.entropy.coder import EntropyCoder, Sections, refuse_others
from cutlayer.codec.entropy.excesses import read_excesses, write_excesses
from cutlayer.codec.entropy.layout import (
    SCORE_SECTIONS,
    Layout,
    layout_of,
    read_layout,
    refined,
    write_layout,
)
from cutlayer.codec.entropy.scores import Series
from cutlayer.codec.kernels.kernels import Kernels, SymbolSums
from cutlayer.codec.stages import estimate
from cutlayer.errors import PacketError

# a code of its own, 128 bytes longer, for each so many symbols: what threads share
_CHUNK_SYMBOLS = 1 << 20
_MOST_CHUNKS = 64
# what a code takes beyond its symbols' entropy: 32 lanes of 24 bits
_CODE_BYTES = 96
# so many tell what classes are like
_SAMPLE_SYMBOLS = 1 << 20
# classes at the ends that hold no more non-zero symbols are merged
_FEW = 8
# up to it no symbol is an escape
_SMALL_REACH = 16


@final
@dataclass(frozen=True)
class TwoWay(EntropyCoder):
    """See the module."""

    name: ClassVar[str] = "two-way"

    def encode(self, symbols: Int16[np.ndarray, "row column"], kernels: Kernels) -> Sections:
        """See `EntropyCoder.encode`."""
        sums = kernels.sums(symbols)
        if not sums.largest:
            return {}
        layout, kinds = _fitted(symbols, sums, kernels)
        counts, reach, layout = _counted(symbols, layout, kinds, sums.largest, kernels)
        writer = BitWriter()
        sections = write_layout(layout, writer, kernels)
        header = (counts.shape[1] - 1, reach - 1, int(sums.largest > reach))
        for value in header:
            Number(1).put(value, writer)
        frequencies = _write_tables(counts, layout, writer)
        model = layout.model(counts.shape[1], frequencies)
        chunks = _chunks(layout, symbols.shape[0])
        sections["code"] = _joined(kernels.rans_encode(symbols, model, chunks))
        if sums.largest > reach:
            at_reach = symbols[(symbols >= reach) | (symbols <= -reach)].astype(np.int64)
            sections["escapes"] = write_excesses(np.abs(at_reach) - reach)
        sections["model"] = writer.to_bytes()
        return {name: data for name, data in sections.items() if data}

    def decode(
        self, sections: Mapping[str, bytes], rows: int, columns: int, kernels: Kernels
    ) -> Int16[np.ndarray, "row column"]:
        """See `EntropyCoder.decode`."""
        refuse_others(sections, "model", "code", "escapes", *SCORE_SECTIONS)
        if not sections or not rows * columns:
            refuse_others(sections)
            return np.zeros((rows, columns), dtype=np.int16)
        reader = BitReader(sections.get("model", b""))
        layout = read_layout(sections, rows, columns, reader, kernels)
        classes, reach, escapes = (Number(1).get(reader) for _ in range(3))
        classes, reach = classes + 1, reach + 1
        _check_header(classes, reach, escapes)
        frequencies = _read_tables(classes, reach, layout, reader)
        reader.finish("model")
        model = layout.model(classes, frequencies)
        codes = _split(sections.get("code", b""), _chunks(layout, rows))
        symbols = kernels.rans_decode(codes, model, columns)
        _add_excesses(symbols, reach, bool(escapes), sections.get("escapes", b""))
        return symbols

    def expected_bytes(
        self, magnitudes: Float64[np.ndarray, " magnitude"], rows: int, columns: int
    ) -> dict[str, float]:
        """See `EntropyCoder.expected_bytes`; independent symbols have one class, and scores of
        little more than a bit each."""
        symbols = rows * columns
        chunks = min(max(symbols // _CHUNK_SYMBOLS, 1), _MOST_CHUNKS, max(rows, 1))
        code_bits = symbols * estimate.signed_entropy(magnitudes) + 8 * _CODE_BYTES * chunks
        return {
            "model": 2.0 * magnitudes.size,
            "scores": (rows + columns) / 8,
            "code": code_bits / 8,
        }


def _fitted(
    symbols: Int16[np.ndarray, "row column"], sums: SymbolSums, kernels: Kernels
) -> tuple[Layout, int]:
    """Scores refined once by what some rows say about the classes, and the number of classes."""
    layout, kinds = layout_of(sums)
    every = max(symbols.size // _SAMPLE_SYMBOLS, 1)
    some = replace(layout, rows=Series(layout.rows.values[::every], layout.rows.live[::every]))
    if not some.rows.live.any():
        return layout, kinds
    reach = min(sums.largest, tables.LARGEST_REACH)
    counts = _histogram(symbols[::every], some, kinds, reach, kernels).sum(0)
    totals = counts @ abs(np.arange(-reach, reach + 1))
    # a little of nothing, so that a class that is hardly used says little
    return refined(layout, sums, (totals + 0.05) / (counts.sum(1) + 0.3))


def _histogram(
    symbols: Int16[np.ndarray, "row column"],
    layout: Layout,
    classes: int,
    reach: int,
    kernels: Kernels,
) -> Int64[np.ndarray, "skew kind symbol"]:
    """How often each skew and class codes each symbol."""
    sets = 1 + 2 * layout.levels
    blank = np.zeros((1 + sets * classes, 2 * reach + 1), dtype=np.uint16)
    counts = kernels.histogram(symbols, layout.model(classes, blank))
    return counts[1:].reshape(sets, classes, 2 * reach + 1)


def _counted(
    symbols: Int16[np.ndarray, "row column"],
    layout: Layout,
    classes: int,
    largest: int,
    kernels: Kernels,
) -> tuple[Int64[np.ndarray, "skew kind symbol"], int, Layout]:
    """The histogram within the reach, this reach, and the layout, the lowest and highest classes
    merged with their neighbours where they hold too little."""
    reach = min(largest, tables.LARGEST_REACH)
    counts = _histogram(symbols, layout, classes, reach, kernels)
    near = _reach(counts.sum((0, 1)), largest)
    counts = _folded(counts, near)
    low, high = _useful(counts)
    merged = counts[:, low : high + 1].copy()
    merged[:, 0] += counts[:, :low].sum(1)
    merged[:, -1] += counts[:, high + 1 :].sum(1)
    live = layout.columns.live
    shifted = Series(np.where(live, layout.columns.values - low, 0), live)
    return merged, near, replace(layout, columns=shifted)


def _reach(counts: Int64[np.ndarray, " symbol"], largest: int) -> int:
    """The smallest magnitude that few enough symbols exceed; the largest one if that is small."""
    middle = counts.size // 2
    if largest <= _SMALL_REACH:
        return largest
    sizes = counts[middle:] + counts[middle::-1]
    beyond = sizes.sum() - sizes.cumsum()
    few = beyond <= sizes[1:].sum() >> 10
    return max(int(np.argmax(few)), _SMALL_REACH)


def _folded(
    counts: Int64[np.ndarray, "skew kind symbol"], reach: int
) -> Int64[np.ndarray, "skew kind near"]:
    """The counts with symbols beyond `reach` counted as the nearest within."""
    middle = counts.shape[2] // 2
    near = counts[:, :, middle - reach : middle + reach + 1].copy()
    near[:, :, 0] += counts[:, :, : middle - reach].sum(2)
    near[:, :, -1] += counts[:, :, middle + reach + 1 :].sum(2)
    return near


def _useful(counts: Int64[np.ndarray, "skew kind symbol"]) -> tuple[int, int]:
    """The lowest and highest class to keep: those beyond hold few non-zero symbols."""
    sizes = counts.sum(0)
    zeros = sizes[:, sizes.shape[1] // 2]
    others = sizes.sum(1) - zeros
    low = int(np.argmax(others.cumsum() > _FEW))
    high = len(others) - 1 - int(np.argmax(sizes.sum(1)[::-1].cumsum() > _FEW))
    low = max(low, high - tables.LARGEST_CLASSES + 1)
    return (low, high) if low < high else (high, high)


def _check_header(classes: int, reach: int, escapes: int) -> None:
    if classes > tables.LARGEST_CLASSES or reach > tables.LARGEST_REACH or escapes > 1:
        raise PacketError(f"model: {classes} classes, reach {reach}, escapes {escapes}")


def _write_tables(
    counts: Int64[np.ndarray, "skew kind symbol"], layout: Layout, writer: BitWriter
) -> UInt16[np.ndarray, "table symbol"]:
    reach = counts.shape[2] // 2
    sizes = counts[:, :, reach:].sum(0)
    sizes[:, 1:] += counts[:, :, :reach].sum(0)[:, ::-1]
    hazards = tables.write_hazards(sizes, layout.sizes(counts.shape[1]), tables.EDGES, writer)
    positive, negative = counts[:, :, reach + 1 :].sum((1, 2)), counts[:, :, :reach].sum((1, 2))
    majorities = [tables.SIGN_ONE // 2]
    for level in range(1, layout.levels + 1):
        more = int(positive[2 * level - 1] + negative[2 * level])
        less = int(negative[2 * level - 1] + positive[2 * level])
        share = tables.majority(more, less)
        Number(1).put(share - tables.SIGN_ONE // 2, writer)
        majorities.append(share)
    return tables.frequencies(tables.magnitudes(hazards), majorities)


def _read_tables(
    classes: int, reach: int, layout: Layout, reader: BitReader
) -> UInt16[np.ndarray, "table symbol"]:
    hazards = tables.read_hazards(layout.sizes(classes), reach, tables.EDGES, reader)
    half = tables.SIGN_ONE // 2
    majorities = [half, *(half + Number(1).get(reader) for _ in range(layout.levels))]
    if max(majorities) > tables.SIGN_ONE:
        raise PacketError(f"tables: a majority of {max(majorities)} / {tables.SIGN_ONE}")
    return tables.frequencies(tables.magnitudes(hazards), majorities)


def _chunks(layout: Layout, rows: int) -> int:
    symbols = int(layout.rows.live.sum()) * int(layout.columns.live.sum())
    return min(max(symbols // _CHUNK_SYMBOLS, 1), _MOST_CHUNKS, max(rows, 1))


def _joined(codes: list[bytes]) -> bytes:
    """The lengths of all codes but the last, as u32, then the codes."""
    lengths = np.array([len(code) for code in codes[:-1]], dtype="<u4")
    return lengths.tobytes() + b"".join(codes)


def _split(joined: bytes, chunks: int) -> list[bytes]:
    head = 4 * (chunks - 1)
    if len(joined) < head:
        raise PacketError(f"code: {len(joined)} bytes, expected at least {head}")
    lengths = np.frombuffer(joined[:head], dtype="<u4").astype(np.int64)
    edges = [head, *(head + lengths.cumsum()).tolist(), len(joined)]
    if edges[-2] > len(joined):
        raise PacketError(f"code: {len(joined)} bytes, expected at least {edges[-2]}")
    return [joined[first:last] for first, last in pairwise(edges)]


def _add_excesses(
    symbols: Int16[np.ndarray, "row column"], reach: int, escapes: bool, section: bytes
) -> None:
    flat = symbols.reshape(-1)
    at_reach = (
        np.flatnonzero((flat >= reach) | (flat <= -reach))
        if escapes
        else np.zeros(0, dtype=np.int64)
    )
    excesses = read_excesses(section, at_reach.size, 32767 - reach).astype(np.int16)
    flat[at_reach] += np.sign(flat[at_reach]) * excesses
