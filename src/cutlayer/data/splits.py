"""What every loader needs: labels turned into indices, and a test split where there is none."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from cutlayer.data.samples import Samples, SplitPair, Subset
from cutlayer.errors import DataError
from cutlayer.spec import Task

UNKNOWN_LABEL = -1
TEST_NAMES = ("test", "val", "validation", "valid", "dev")
_SPLIT_STREAM = 0x59117  # keeps this draw apart from other streams of the same seed


@dataclass(frozen=True)
class Settings:
    """How a set is to be read: what `load.load_data` was asked.

    `test_fraction` None: of samples without a test split none are held out.
    """

    task: Task | None = None
    text_field: str = "text"
    label_field: str = "label"
    test_fraction: float | None = 0.2
    seed: int = 0


def name_classes(raw: Sequence[str | None]) -> tuple[str, ...]:
    """The distinct labels in order: by value if all are whole numbers, else by alphabet."""
    distinct = {label for label in raw if label is not None}
    try:
        return tuple(sorted(distinct, key=lambda label: (int(label), label)))
    except ValueError:
        return tuple(sorted(distinct))


def index_labels(
    raw: Sequence[str | None], class_names: tuple[str, ...]
) -> Int64[np.ndarray, " sample"]:
    """Each label's index among the class names; -1 where it is none of them or missing."""
    index = {name: place for place, name in enumerate(class_names)}
    places = (UNKNOWN_LABEL if label is None else index.get(label, UNKNOWN_LABEL) for label in raw)
    return np.fromiter(places, np.int64, len(raw))


def split_off_test(
    samples: Samples, class_names: tuple[str, ...], fraction: float | None, seed: int
) -> SplitPair:
    """A seeded `fraction` of the samples as test split, every class within one of its share; None:
    an empty one.

    Raises `DataError` when `fraction` is not inside (0, 1) or leaves a split empty.
    """
    if fraction is None:
        return SplitPair(samples, Subset(samples, np.zeros(0, np.int64)), class_names)
    if not 0.0 < fraction < 1.0:
        raise DataError(f"test_fraction is {fraction}: choose a number between 0 and 1")
    rng = np.random.default_rng([_SPLIT_STREAM, seed])
    shuffled = rng.permutation(len(samples))
    by_class = shuffled[np.argsort(samples.labels[shuffled], kind="stable")]
    # every 1/fraction-th along the classes, from a random start
    taken = np.diff(np.floor(rng.random() + fraction * np.arange(len(samples) + 1))) > 0
    test, train = np.sort(by_class[taken]), np.sort(by_class[~taken])
    if not len(test) or not len(train):
        raise DataError(
            f"{len(samples)} samples cannot be split with test_fraction {fraction}: "
            "one side would be empty; add samples or a test split of your own"
        )
    return SplitPair(Subset(samples, train), Subset(samples, test), class_names)
