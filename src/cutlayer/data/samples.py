"""What a data set is to the trainer: two splits of labelled samples, read one by one.

Knows no file format (the loaders do) and no model input (`images` and `text` do).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, final

import numpy as np
from jaxtyping import Int, Int64, UInt8

from cutlayer.spec import Task

Source: TypeAlias = Literal["path", "cache", "hub", "package"]
Content: TypeAlias = UInt8[np.ndarray, "height width 3"] | str | Int64[np.ndarray, "block_token"]


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


@dataclass(frozen=True)
class LeftOut:
    """What lies in a data set and is no sample: `count` of `what` ("files"), and `why`."""

    what: str
    why: str
    count: int


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
