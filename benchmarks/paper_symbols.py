"""The paper's symbols at its own point (80 % sparsity, 3 bits), for peers that only code them.

Made and undone by the product's stages and C loops, so that a peer differs in its coder alone.
"""

from dataclasses import dataclass, field
from typing import final

import numpy as np
from jaxtyping import Float32, Int8

from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.codec.kernels.load import load
from cutlayer.codec.stages.levels import StochasticLevels
from cutlayer.codec.stages.quantiser import Quantised, Rows
from cutlayer.codec.stages.sparsify import TopK

KEEP_RATIO = 0.2
LEVELS = 7
_SPARSIFIER = TopK(KEEP_RATIO)
_QUANTISER = StochasticLevels(LEVELS)


@final
@dataclass(frozen=True)
class PaperSymbols:
    """Top-K of each sample and stochastic levels; symbols -8..8, 0 where dropped."""

    kernels: Kernels = field(default_factory=load)

    def quantise(
        self, tensor: Float32[np.ndarray, "batch token width"]
    ) -> tuple[Int8[np.ndarray, " value"], bytes]:
        """The symbols and the samples' extremes."""
        sizes = _sizes(tensor.shape)
        values = tensor.reshape(-1, tensor.shape[-1])
        kept = _SPARSIFIER.kept(values, sizes, self.kernels)
        rows = Rows(values, kept, sizes, step_ratio=1.0)
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
