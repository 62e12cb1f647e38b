"""Where values live, and what the stages do with whole arrays there besides the loops.

On the host an array is numpy's; another form may keep values and symbols on a device, and then this
is all that crosses. Knows nothing of what arrays mean.
"""

from abc import ABC, abstractmethod
from typing import Any, TypeAlias, final

import numpy as np
from jaxtyping import Float32, Float64, Int16, Shaped

# numpy's on the host, torch's on a device: they have operators, slices and `reshape` in common, but
# no type that this package, which needs numpy alone, could name
Array: TypeAlias = Any


class Arrays(ABC):
    """What numpy and torch spell differently. Small integers are int16 on either side."""

    @abstractmethod
    def of(self, array: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
        """The array where values live, contiguous; itself if it is there already."""

    @abstractmethod
    def to_host(self, array: Shaped[Array, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
        """The array on the host."""

    @abstractmethod
    def full(
        self, shape: tuple[int, ...], value: float, dtype: type[np.generic]
    ) -> Shaped[Array, "..."]:
        """A new array that holds `value` everywhere."""

    @abstractmethod
    def wide(self, array: Float32[Array, "*shape"]) -> Float64[Array, "*shape"]:
        """In double precision."""

    @abstractmethod
    def energies(self, values: Float32[Array, "row column"]) -> Float32[np.ndarray, " column"]:
        """The sum of each column's squares, on the host."""

    @abstractmethod
    def places(
        self, edges: Float32[np.ndarray, " edge"], values: Float32[Array, "row column"]
    ) -> Int16[Array, "row column"]:
        """How many of the rising `edges` are at most each value."""


@final
class HostArrays(Arrays):
    """numpy's."""

    def of(self, array: Shaped[np.ndarray, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
        """See `Arrays.of`."""
        return np.ascontiguousarray(array)

    def to_host(self, array: Shaped[np.ndarray, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
        """See `Arrays.to_host`."""
        return array

    def full(
        self, shape: tuple[int, ...], value: float, dtype: type[np.generic]
    ) -> Shaped[np.ndarray, "..."]:
        """See `Arrays.full`."""
        return np.full(shape, value, dtype=dtype)

    def wide(self, array: Float32[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
        """See `Arrays.wide`."""
        return array.astype(np.float64)

    def energies(self, values: Float32[np.ndarray, "row column"]) -> Float32[np.ndarray, " column"]:
        """See `Arrays.energies`."""
        found: Float32[np.ndarray, " column"] = np.einsum("rc,rc->c", values, values)
        return found

    def places(
        self, edges: Float32[np.ndarray, " edge"], values: Float32[np.ndarray, "row column"]
    ) -> Int16[np.ndarray, "row column"]:
        """See `Arrays.places`."""
        return np.searchsorted(edges, values, side="right").astype(np.int16)


def dot(a: Shaped[Array, "*shape"], b: Shaped[Array, "*shape"], arrays: Arrays) -> float:
    """The inner product, in the arrays' own precision."""
    return float(arrays.to_host(a.reshape(1, -1) @ b.reshape(-1, 1))[0, 0])
