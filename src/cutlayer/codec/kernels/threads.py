"""The threads of the hot loops: ranges that they share, and work that goes on beside.

Knows nothing of what is done in them. What a loop gives does not depend on their number: either its
ranges do not matter to the result, or they are the same for any number.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import TypeVar, final

import numpy as np
from jaxtyping import Float32

from cutlayer.errors import PacketError

PARTS_PER_THREAD = 4
# what a thread takes of a matrix product: few enough to share, many enough to be quick
RUN_ROWS = 768

T = TypeVar("T")


@cache
def _helpers(count: int) -> ThreadPoolExecutor:
    """The threads that help, shared by all codecs of a process: their loops run one after another.

    The interpreter ends them as it ends.
    """
    return ThreadPoolExecutor(count, "codec")


@final
class Threads:
    """The calling thread, and `count` - 1 that help it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pool = _helpers(count - 1) if count > 1 else None

    def start(self, work: Callable[[], T]) -> Callable[[], T]:
        """Work that a helper begins at once, and a call that waits for what it gives."""
        if self.pool is None:
            found = work()
            return lambda: found
        return self.pool.submit(work).result

    def split(self, count: int, work: Callable[[int, int], T]) -> list[T]:
        """`work` for even ranges of `count`: a few a thread, so that a thread that waits for its
        processor holds up little."""
        parts = 1 if self.pool is None else PARTS_PER_THREAD * self.count
        return self.each(chunk_bounds(count, max(1, min(parts, count))), work)

    def each(self, bounds: list[tuple[int, int]], work: Callable[[int, int], T]) -> list[T]:
        """`work` for each range, in order. The calling thread takes its share.

        Raises the PacketError of the first range that has one, whichever thread found it first.
        """
        if self.pool is None or len(bounds) == 1:
            return [work(first, last) for first, last in bounds]
        found: list[T | PacketError] = [PacketError("not reached")] * len(bounds)
        left = iter(range(len(bounds)))

        def share() -> None:
            for part in left:
                try:
                    found[part] = work(*bounds[part])
                except PacketError as error:
                    found[part] = error

        helpers = [self.pool.submit(share) for _ in range(min(self.count, len(bounds)) - 1)]
        share()
        for helper in helpers:
            # one that has not begun, since others' work keeps its thread, has nothing left to do
            if not helper.cancel():
                helper.result()
        results = []
        for result in found:
            if isinstance(result, PacketError):
                raise result
            results.append(result)
        return results


def chunk_bounds(rows: int, chunks: int) -> list[tuple[int, int]]:
    """The first and last + 1 row of each of `chunks` runs that differ by one row at most."""
    edges = [rows * chunk // chunks for chunk in range(chunks + 1)]
    return list(pairwise(edges))


def runs_of(rows: int) -> list[tuple[int, int]]:
    """The first and last + 1 row of each run of a matrix product; one of no rows where there are
    none."""
    return [(at, min(at + RUN_ROWS, rows)) for at in range(0, max(rows, 1), RUN_ROWS)]


# `Kernels.turn` and `turn_back` by numpy; `each` calls for every run, in any order.

Each = Callable[[list[tuple[int, int]], Callable[[int, int], None]], object]


def turned(
    values: Float32[np.ndarray, "row width"],
    mean: Float32[np.ndarray, " width"] | None,
    basis: Float32[np.ndarray, "width component"],
    each: Each,
) -> Float32[np.ndarray, "row component"]:
    """See `Kernels.turn`."""
    whole = np.empty((len(values), basis.shape[1]), dtype=np.float32)

    def place(first: int, last: int) -> None:
        some = values[first:last]
        np.matmul(some if mean is None else some - mean, basis, out=whole[first:last])

    each(runs_of(len(values)), place)
    return whole


def turned_back(
    values: Float32[np.ndarray, "row some"],
    mean: Float32[np.ndarray, " width"] | None,
    basis: Float32[np.ndarray, "width component"],
    each: Each,
) -> Float32[np.ndarray, "row width"]:
    """See `Kernels.turn_back`."""
    back = basis[:, : values.shape[1]].T
    whole = np.empty((len(values), len(basis)), dtype=np.float32)

    def place(first: int, last: int) -> None:
        some = np.matmul(values[first:last], back, out=whole[first:last])
        if mean is not None:
            some += mean

    each(runs_of(len(values)), place)
    return whole
