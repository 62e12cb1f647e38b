"""Reads every sample once before anything trains, and names those that cannot be used."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from cutlayer.data.samples import DataSet, Samples

OnBad: TypeAlias = Literal["stop", "skip"]


@dataclass(frozen=True)
class BadSample:
    """A sample that cannot be used: its index in the split checked, where it lies, and why."""

    index: int
    where: str
    why: str


def find_bad(samples: Samples, classes: int) -> tuple[BadSample, ...]:
    """Every sample that is unreadable, empty, or labelled outside `0 .. classes - 1`."""
    raise NotImplementedError


def check_samples(
    samples: Samples, classes: int, on_bad: OnBad = "stop"
) -> tuple[Samples, tuple[BadSample, ...]]:
    """The usable samples and those dropped.

    `"stop"` raises `DataError` naming the first few and the count; `"skip"` drops them (and
    raises only if nothing is left).
    """
    raise NotImplementedError


def check_data(data: DataSet, on_bad: OnBad = "stop") -> tuple[DataSet, tuple[BadSample, ...]]:
    """`check_samples` on both splits; a "stop" names the bad ones of both at once."""
    raise NotImplementedError
