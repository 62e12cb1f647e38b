"""What a quantiser is: values to small integers (symbols) and back.

Knows no quantiser: each is in a file of its own.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Float64, Int16, Int64, UInt8

from cutlayer.codec.kernels.arrays import Array
from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.codec.stages.step import FIXED, StepRule


@dataclass(frozen=True, eq=False)
class Quantised:
    """The symbols, 0 where a value is dropped, and what the receiver needs to undo them.

    `block`: see `Rows`.
    """

    symbols: Int16[Array, "row column"]
    settings: bytes
    block: int = 1


@dataclass(frozen=True, eq=False)
class Rows:
    """What a quantiser is given: tokens as rows, which values count, how many each sample has.

    `kept` is None where all values count. `step_ratio` is the current step in units of the values'
    scale, for a quantiser whose rule looks for one. `block`: of the Hadamard transform that is left
    to a quantiser that `turns`; 1: none.
    """

    values: Float32[Array, "row column"]
    kept: UInt8[Array, " value"] | None
    sizes: Int64[np.ndarray, " batch"]
    step_ratio: float
    block: int = 1


class Quantiser(ABC):
    """Values to symbols and back."""

    name: ClassVar[str]

    @property
    def step_rule(self) -> StepRule:
        """How the step is found; a quantiser without one has nothing to look for."""
        return FIXED

    @property
    def turns(self) -> bool:
        """Whether it can do the Hadamard transform on the way, row by row, which spares a pass over
        memory each way."""
        return False

    @abstractmethod
    def quantise(self, rows: Rows, kernels: Kernels, rng: np.random.Generator) -> Quantised:
        """The symbols of all rows."""

    @abstractmethod
    def dequantise(
        self,
        quantised: Quantised,
        sizes: Int64[np.ndarray, " batch"],
        kernels: Kernels,
    ) -> Float32[Array, "row column"]:
        """The values that the symbols stand for.

        Raises PacketError: settings or symbols that `quantise` does not make.
        """

    @abstractmethod
    def settings_bytes(self, batch: int, rows: int) -> int:
        """The length [bytes] of the settings of `batch` samples of `rows` tokens in all."""

    @abstractmethod
    def expected_magnitudes(self, kept: int, values: int) -> Float64[np.ndarray, " magnitude"]:
        """How often a symbol's magnitude is 0, 1, 2, ... when `kept` of a sample's `values`
        independent Laplace values are kept."""
