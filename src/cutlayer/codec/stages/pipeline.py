"""The stages with what a stream has learned put in: rows of values to sections, and back.

Knows one tensor at a time; nothing of packets, nor of when something is learned.
"""

import math
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from jaxtyping import Float32, UInt8

from cutlayer.codec.entropy.coder import EntropyCoder, Sections
from cutlayer.codec.kernels.arrays import Array, dot
from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.codec.segments import Segments
from cutlayer.codec.stages.learned import Learned
from cutlayer.codec.stages.quantiser import Quantised, Quantiser, Rows
from cutlayer.codec.stages.sparsify import TopK
from cutlayer.codec.stages.transform import Hadamard, block_of

ROWS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Transformed:
    """Rows after centring and transform, and which of their values are kept (None: all)."""

    values: Float32[Array, "row column"]
    kept: UInt8[Array, " value"] | None
    segments: Segments


@dataclass(frozen=True, eq=False)
class Coded:
    """Symbols with their settings, and the sections that they take."""

    quantised: Quantised
    sections: Sections

    @property
    def bytes(self) -> int:
        """The length [bytes] of all sections."""
        return sum(len(section) for section in self.sections.values())


@final
@dataclass(frozen=True)
class Pipeline:
    """Centre, transform, sparsify, quantise, entropy-code. A learned basis goes before Hadamard:
    there is one transform."""

    quantiser: Quantiser
    entropy: EntropyCoder
    hadamard: Hadamard | None
    sparsify: TopK | None
    learned: Learned
    kernels: Kernels

    def transform(self, values: Float32[Array, "row width"], segments: Segments) -> Transformed:
        """Everything before the quantiser, which one packet may try with several steps."""
        rows = values if self.learned.mean is None else values - self.learned.mean
        if self.learned.basis is not None:
            rows = rows @ self.learned.basis
        elif self.hadamard is not None and not self._quantiser_turns:
            rows = self.hadamard.forward(rows, self.kernels)
        kept = None
        if self.sparsify is not None:
            kept = self.sparsify.kept(rows, segments.sizes(rows.shape[1]), self.kernels)
        return Transformed(rows, kept, segments)

    def quantise(
        self, transformed: Transformed, ratio: float, rng: np.random.Generator
    ) -> Quantised:
        """The symbols at a step of `ratio` times the values' scale."""
        values, segments = transformed.values, transformed.segments
        block = self._block(values.shape[1])
        rows = Rows(values, transformed.kept, segments.sizes(values.shape[1]), ratio, block)
        return self.quantiser.quantise(rows, self.kernels, rng)

    def code(self, quantised: Quantised) -> Coded:
        """The sections of these symbols, which cross to the host here."""
        symbols = self.kernels.arrays.to_host(quantised.symbols)
        sections = self.entropy.encode(symbols, self.kernels)
        return Coded(quantised, {"quantiser": quantised.settings, **sections})

    def restore(self, quantised: Quantised, segments: Segments) -> Float32[Array, "row width"]:
        """The rows that these symbols stand for. Raises PacketError: no such symbols."""
        sizes = segments.sizes(quantised.symbols.shape[1])
        turned = replace(quantised, block=self._block(quantised.symbols.shape[1]))
        values = self.quantiser.dequantise(turned, sizes, self.kernels)
        if self.learned.basis is not None:
            # the columns of least energy are often all zero
            alive = self.kernels.arrays.to_host(quantised.symbols.any(0))
            live = int(np.flatnonzero(alive).max(initial=-1)) + 1
            values = values[:, :live] @ self.learned.basis[:, :live].T
        elif self.hadamard is not None and not self._quantiser_turns:
            # in place, some rows at a time: a decoder must not take much more than its tensor
            for first in range(0, len(values), ROWS_AT_ONCE):
                some = slice(first, first + ROWS_AT_ONCE)
                values[some] = self.hadamard.inverse(values[some], self.kernels)
        if self.learned.mean is not None:
            values += self.learned.mean
        return values

    @property
    def _quantiser_turns(self) -> bool:
        """Whether the Hadamard transform is the quantiser's: nothing is selected in between."""
        transforms = self.hadamard is not None and self.learned.basis is None
        return transforms and self.sparsify is None and self.quantiser.turns

    def _block(self, columns: int) -> int:
        """Of the Hadamard transform that is left to the quantiser; 1: none."""
        return block_of(columns) if self._quantiser_turns else 1

    def cosine(
        self, values: Float32[Array, "row width"], quantised: Quantised, segments: Segments
    ) -> float:
        """Between rows and what they decode to, both about the mean in use."""
        arrays = self.kernels.arrays
        a, b = arrays.wide(values), arrays.wide(self.restore(quantised, segments))
        if self.learned.mean is not None:
            a, b = a - self.learned.mean, b - self.learned.mean
        norms = math.sqrt(dot(a, a, arrays)) * math.sqrt(dot(b, b, arrays))
        return dot(a, b, arrays) / norms if norms > 0 else 0.0
