"""The last stage of a codec: a matrix of small integers to bytes and back, without loss.

Knows the interface only. What the symbols stand for is the quantiser's business, how the named
sections become one packet the packet's. Rows are tokens, columns channels; either may be none.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Float64, Int16

from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.errors import PacketError

# named pieces of a packet, e.g. "code", "gaps", "signs"; one that is empty may be left out
Sections = dict[str, bytes]


class EntropyCoder(ABC):
    """A lossless code of symbols in -32767..32767. The same symbols give the same bytes."""

    name: ClassVar[str]

    @abstractmethod
    def encode(self, symbols: Int16[np.ndarray, "row column"], kernels: Kernels) -> Sections:
        """The sections of `symbols`."""

    @abstractmethod
    def decode(
        self, sections: Mapping[str, bytes], rows: int, columns: int, kernels: Kernels
    ) -> Int16[np.ndarray, "row column"]:
        """`encode` undone.

        Raises PacketError for sections of no such matrix; never allocates more than some multiple
        of `rows * columns` and of the sections' own length.
        """

    @abstractmethod
    def expected_bytes(
        self, magnitudes: Float64[np.ndarray, " magnitude"], rows: int, columns: int
    ) -> dict[str, float]:
        """The length [bytes] of each section for independent symbols, where |q| is 0, 1, 2, ...
        with these probabilities."""


def section(sections: Mapping[str, bytes], name: str, length: int) -> bytes:
    """The section of that name. Raises PacketError if it has not `length` bytes."""
    data = sections.get(name, b"")
    if len(data) != length:
        raise PacketError(f"{name}: {len(data)} bytes, expected {length}")
    return data


def refuse_others(sections: Mapping[str, bytes], *expected: str) -> None:
    """Raises PacketError if there is a section that is not among the expected ones."""
    others = sorted(set(sections) - set(expected))
    if others:
        raise PacketError(f"sections {others}, expected only {sorted(expected)}")
