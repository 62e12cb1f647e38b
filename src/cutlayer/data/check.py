"""Reads every sample once before anything trains, and names those that cannot be used."""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from cutlayer.data.samples import DataSet, Samples, Subset
from cutlayer.errors import DataError

OnBad: TypeAlias = Literal["stop", "skip"]
_NAMED = 5


@dataclass(frozen=True)
class BadSample:
    """A sample that cannot be used: its index in the split checked, where it lies, and why."""

    index: int
    where: str
    why: str

    @property
    def title(self) -> str:
        """Where and why in a line; a reading error already says where."""
        return self.why if self.where in self.why else f"{self.where}: {self.why}"


def find_bad(samples: Samples, classes: int) -> tuple[BadSample, ...]:
    """Every sample that is unreadable, empty, or labelled outside `0 .. classes - 1`."""
    found = []
    for index in range(len(samples)):
        why = _fault(samples, index, classes)
        if why is not None:
            found.append(BadSample(index, samples.where(index), why))
    return tuple(found)


def check_samples(
    samples: Samples, classes: int, on_bad: OnBad = "stop"
) -> tuple[Samples, tuple[BadSample, ...]]:
    """The usable samples, and those dropped.

    `"stop"` raises `DataError` naming the first few and the count; `"skip"` drops them, and
    raises only if nothing is left.
    """
    bad = find_bad(samples, classes)
    if bad and on_bad == "stop":
        raise _stop(bad, len(samples))
    return _without(samples, bad), bad


def check_data(data: DataSet, on_bad: OnBad = "stop") -> tuple[DataSet, tuple[BadSample, ...]]:
    """`check_samples` on both splits; a stop names the bad ones of both at once."""
    train, test = (find_bad(split, len(data.class_names)) for split in (data.train, data.test))
    if (train or test) and on_bad == "stop":
        raise _stop(train + test, len(data.train) + len(data.test))
    kept = replace(data, train=_without(data.train, train), test=_without(data.test, test))
    return kept, train + test


def _fault(samples: Samples, index: int, classes: int) -> str | None:
    label = int(samples.labels[index])
    if not 0 <= label < classes:
        return f"its label is none of the {classes} classes"
    try:
        content = samples.read(index)
    except DataError as error:
        return str(error)
    if isinstance(content, str):
        return None if content.strip() else "its text is empty"
    return None if content.size else "it has no content"


def _without(samples: Samples, bad: tuple[BadSample, ...]) -> Samples:
    if not bad:
        return samples
    if len(bad) == len(samples):
        raise DataError(f"all {len(bad)} samples are bad; the first: {bad[0].title}")
    dropped = np.array([sample.index for sample in bad])
    return Subset(samples, np.setdiff1d(np.arange(len(samples)), dropped))


def _stop(bad: tuple[BadSample, ...], count: int) -> DataError:
    named = "; ".join(sample.title for sample in bad[:_NAMED])
    more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return DataError(
        f"{len(bad)} of {count} samples cannot be used: {named}{more}. "
        "Mend or remove them, or skip them (data.on_bad_sample: skip)"
    )
