"""What a data set is to the trainer: two splits of labelled samples, read one by one.

Also what every loader needs: labels turned into indices, a test split where there is none, and the
array form of an image set. Knows no other file format (the loaders do) and no model input (`images`
and `text` do).
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, final

import numpy as np
from jaxtyping import Int, Int64, Integer, UInt8

from cutlayer.errors import DataError
from cutlayer.spec import LeftOut, Task

Source: TypeAlias = Literal["path", "cache", "hub", "package"]
Content: TypeAlias = UInt8[np.ndarray, "height width 3"] | str | Int64[np.ndarray, "block_token"]


UNKNOWN_LABEL = -1
TEST_NAMES = ("test", "val", "validation", "valid", "dev")
_SPLIT_STREAM = 0x59117  # keeps this draw apart from other streams of the same seed
ARRAY_FILE = "images.npz"


class Samples(ABC):
    """One split: labels at hand, contents read when asked for.

    A label is an index into the data set's `class_names`; -1 says that the file's label is none
    of them. For language modelling the label is the document's category: it only steers how
    samples are dealt to devices.
    """

    labels: Int64[np.ndarray, " sample"]

    @abstractmethod
    def read(self, index: int) -> Content:
        """The content of one sample: RGB image at its native size, text, or block of token ids.

        Raises `DataError` (naming the sample) when it cannot be read.
        """

    @abstractmethod
    def where(self, index: int) -> str:
        """Where a person finds this sample: a path, a file and line, or a split and row."""

    def raw(self, index: int) -> bytes:
        """What a fingerprint of the sample is taken of: its content, or what that is decoded from.

        Raises as `read`.
        """
        content = self.read(index)
        if isinstance(content, str):
            return content.encode("utf-8", "surrogatepass")
        return f"{content.dtype} {content.shape} ".encode() + content.tobytes()

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.labels)


@final
class Subset(Samples):
    """The samples at `indices` of another split, in that order."""

    def __init__(self, samples: Samples, indices: Int[np.ndarray, " chosen"]) -> None:
        self.labels = samples.labels[indices]
        self._samples = samples
        self._indices = indices

    def read(self, index: int) -> Content:
        return self._samples.read(int(self._indices[index]))

    def raw(self, index: int) -> bytes:
        return self._samples.raw(int(self._indices[index]))

    def where(self, index: int) -> str:
        return self._samples.where(int(self._indices[index]))


@dataclass(frozen=True, eq=False)
class SplitPair:
    """What a loader of one form gives: both splits, the names of their classes, and what it left
    out."""

    train: Samples
    test: Samples
    class_names: tuple[str, ...]
    left_out: tuple[LeftOut, ...] = ()

    def leaving_out(self, items: tuple[LeftOut, ...]) -> "SplitPair":
        """The same splits, with this left out."""
        return replace(self, left_out=items)


@dataclass(frozen=True, eq=False)
class DataSet:
    """A named pair of splits. `source` says who served it, `location` where it lies, `left_out`
    what lies there and is in neither."""

    name: str
    task: Task
    train: Samples
    test: Samples
    class_names: tuple[str, ...]
    source: Source
    location: str
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True, eq=False)
class Batch:
    """A mini-batch as the model's forward takes it.

    `inputs` by the model's argument names: `pixel_values` float32 [row, 3, height, width], or
    `input_ids` and `attention_mask` int64 [row, token]. `lengths`: tokens of each row without its
    padding (None for images). `labels`: class of each row [row]; for language modelling the ids
    themselves [row, token], -100 at padding (the model shifts them).
    """

    inputs: dict[str, np.ndarray]
    lengths: tuple[int, ...] | None
    labels: Int64[np.ndarray, " row"] | Int64[np.ndarray, "row token"]


class BatchMaker(ABC):
    """Turns samples into one mini-batch. `images.ImageBatches`, `text.TextBatches` and
    `text.BlockBatches` do."""

    @abstractmethod
    def make(self, samples: Samples, indices: Int[np.ndarray, " row"]) -> Batch:
        """The mini-batch of the samples at `indices`, rows in that order.

        Raises `DataError` when a sample cannot be read or is of another kind.
        """


@dataclass(frozen=True)
class ReadSettings:
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


def digest_of(samples: Samples) -> str:
    """A split's fingerprint: SHA-256 over the labels and every sample's content, in their order.

    Costs what reading costs: images in files are taken as their bytes, not decoded. Raises
    `DataError` for a sample that cannot be read.
    """
    found = hashlib.sha256(samples.labels.astype("<i8").tobytes())
    for index in range(len(samples)):
        content = samples.raw(index)
        found.update(len(content).to_bytes(8, "little"))
        found.update(content)
    return found.hexdigest()


def digest_of_order(parts: tuple[np.ndarray, ...]) -> str:
    """SHA-256 over which samples each device has, in its order."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part.astype("<i8").tobytes())
    return found.hexdigest()


@final
@dataclass(frozen=True, eq=False)
class ImageArray(Samples):
    """Images in memory, all of one size; grey ones are read as RGB. `origin` names the file."""

    images: UInt8[np.ndarray, "sample height width *rgb"]
    labels: Int64[np.ndarray, " sample"]
    origin: str

    def read(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        image: np.ndarray = self.images[index]
        return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image

    def where(self, index: int) -> str:
        return f"{self.origin} index {index}"


def write_arrays(
    folder: Path,
    train: tuple[UInt8[np.ndarray, "..."], Integer[np.ndarray, " _"]],
    test: tuple[UInt8[np.ndarray, "..."], Integer[np.ndarray, " _"]],
    class_names: tuple[str, ...],
) -> None:
    """Write both splits, each `(images, labels)`, as `folder/images.npz`: the array form, ready in
    memory.

    Keys: `train_images`, `test_images` uint8 [sample, height, width] or [sample, height, width, 3];
    `train_labels`, `test_labels` int [sample]; `class_names` text [class]. Never holds pickled
    objects.
    """
    np.savez(
        folder / ARRAY_FILE,
        train_images=train[0],
        train_labels=train[1],
        test_images=test[0],
        test_labels=test[1],
        class_names=np.array(class_names),
    )
