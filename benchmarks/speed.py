"""Times of calls, with a copy of the same tensor timed in between: the machine's yardstick."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Repeats:
    """How often a call is timed: `most` times, or until `budget_s` [s] is used up, at least
    twice."""

    most: int
    budget_s: float


@dataclass(frozen=True)
class Seconds:
    """The least of all repeats [s], of encode, decode and a memcpy in between."""

    encode: float
    decode: float
    copy: float


@dataclass(frozen=True)
class Times:
    """The same calls by two clocks: what this thread computed, and what a bystander waited."""

    processor: Seconds
    wall: Seconds


def least_times(
    tensor: np.ndarray, encode: Callable[[], object], decode: Callable[[], object], repeats: Repeats
) -> Times:
    """Copy, encode, decode, again and again; the least of each.

    Other processes can only add time, so the minimum is the figure that repeats best.
    """
    target = np.empty_like(tensor)
    calls = (encode, decode, lambda: np.copyto(target, tensor))
    best = np.full((2, 3), np.inf)
    end = time.perf_counter() + repeats.budget_s
    for turn in range(repeats.most):
        if turn >= 2 and time.perf_counter() > end:
            break
        best = np.minimum(best, np.array([_timed(call) for call in calls]).T)
    processor, wall = best.tolist()
    return Times(Seconds(*processor), Seconds(*wall))


def _timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of this thread, and of the wall."""
    wall, processor = time.perf_counter(), time.thread_time()
    call()
    return time.thread_time() - processor, time.perf_counter() - wall
