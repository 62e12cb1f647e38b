"""Reads every sample once before anything trains, and names those that cannot be used."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from cutlayer.data.labels import text_fault
from cutlayer.data.samples import DataSet, Samples, Subset
from cutlayer.errors import CutlayerError, DataError, ModelError, cut, reason

Tokenize: TypeAlias = Callable[[list[str]], list[list[int]]]
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


def find_bad(
    samples: Samples, classes: int, tokenize: Tokenize | None = None
) -> tuple[BadSample, ...]:
    """Every sample that is unreadable, empty, labelled outside `0 .. classes - 1`, or a text that
    `tokenize` fails on. Raises ModelError for a token that the model has no embedding for."""
    found = []
    for index in range(len(samples)):
        why = _fault(samples, index, classes, tokenize)
        if why is not None:
            found.append(BadSample(index, samples.where(index), why))
    return tuple(found)


def check_samples(
    samples: Samples, classes: int, on_bad: OnBad = "stop", tokenize: Tokenize | None = None
) -> tuple[Samples, tuple[BadSample, ...]]:
    """The usable samples, and those dropped.

    `"stop"` raises `DataError` naming the first few and the count; `"skip"` drops them, and
    raises only if nothing is left.
    """
    bad = find_bad(samples, classes, tokenize)
    if bad and on_bad == "stop":
        raise _stop(bad, len(samples))
    return _without(samples, bad), bad


def check_data(
    data: DataSet, on_bad: OnBad = "stop", tokenize: Tokenize | None = None
) -> tuple[DataSet, tuple[BadSample, ...]]:
    """`check_samples` on both splits; a stop names the bad ones of both at once. One split that
    stands for both is checked once."""
    classes, one = len(data.class_names), data.train is data.test
    train = () if one else find_bad(data.train, classes, tokenize)
    test = find_bad(data.test, classes, tokenize)
    if (train or test) and on_bad == "stop":
        raise _stop(train + test, len(data.test) + (0 if one else len(data.train)))
    kept = _without(data.test, test)
    return replace(
        data, train=kept if one else _without(data.train, train), test=kept
    ), train + test


def brief_error(error: Exception) -> str:
    """One of ours as it is; a library's in a line."""
    if isinstance(error, CutlayerError):
        return str(error)
    return f"{type(error).__name__}: {cut(reason(error))}"


def _fault(samples: Samples, index: int, classes: int, tokenize: Tokenize | None) -> str | None:
    try:
        content = samples.read(index)
    except DataError as error:
        return str(error)
    except MemoryError:
        raise
    except Exception as error:  # what a library may raise over one sample is open
        return f"it cannot be read: {reason(error)}"
    label = int(samples.labels[index])
    if not 0 <= label < classes:
        return f"its label is none of the {classes} classes"
    if isinstance(content, str):
        return _text_fault(content, samples.where(index), tokenize)
    return None if content.size else "it has no content"


def _text_fault(text: str, where: str, tokenize: Tokenize | None) -> str | None:
    fault = text_fault(text, "text")
    if fault is not None or tokenize is None:
        return fault
    try:
        (ids,) = tokenize([text])
    except ModelError as error:  # not the sample's fault: the tokenizer is not the model's
        raise ModelError(f"{where}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # whatever the tokenizer's library raises
        return f"the tokenizer fails on it: {brief_error(error)}"
    return None if ids else "the tokenizer makes no token of it"


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
        "Correct or remove them, or skip them (data.on_bad_sample: skip)"
    )
