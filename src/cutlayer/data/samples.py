"""What a data set is to the trainer: two splits of labelled samples, read one by one; and what a
label, a class name and a text may be, one reading for every form that data have.

Also what every loader needs: labels turned into indices, a test split where there is none, texts in
memory, and the array form of an image set. Knows no other file format (the loaders do) and no model
input (`batches` does).
"""

import hashlib
import json
import re
import sys
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, final

import numpy as np
from jaxtyping import Int, Int64, Integer, UInt8

from cutlayer.errors import DataError, quoted, type_in_words
from cutlayer.spec import LeftOut, Task, TextFormat

# Two splits of labelled samples.


Source: TypeAlias = Literal["path", "cache", "hub", "package"]


@dataclass(frozen=True, eq=False)
class TokenRow:
    """A row of language modelling: token ids, and each one's label: the id, or -100 where it does
    not count. `documents`: the lengths of the documents that are packed in it; none: it is one."""

    ids: Int64[np.ndarray, " token"]
    labels: Int64[np.ndarray, " token"]
    documents: tuple[int, ...] = ()

    def raw(self) -> bytes:
        """What its fingerprint is taken of."""
        plain = f"{self.ids.dtype} {self.ids.shape} ".encode() + self.ids.tobytes()
        if not self.documents and np.array_equal(self.ids, self.labels):
            return plain
        return plain + self.labels.tobytes() + repr(self.documents).encode()


# what templates read an answer's thoughts by
THOUGHTS = ("reasoning_content", "thinking")


@dataclass(frozen=True, eq=False)
class Conversation:
    """Turns as a chat template takes them, and the tools that it may name. `completion`: the first
    of the turns that answer, where the data tell prompt from completion."""

    turns: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    completion: int | None = None


@dataclass(frozen=True, eq=False)
class Completion:
    """A text and how it goes on, joined as they are. `conversation`: what stands for both where the
    tokenizer has a chat template; None: nothing does."""

    prompt: str
    completion: str
    conversation: Conversation | None = None


TextContent: TypeAlias = str | Conversation | Completion
Content: TypeAlias = UInt8[np.ndarray, "height width 3"] | TextContent | TokenRow


Tokenize: TypeAlias = Callable[[list[str]], list[list[int]]]
UNKNOWN_LABEL = -1
TEST_NAMES = ("test", "val", "validation", "valid", "dev")
_SPLIT_STREAM = 0x59117  # keeps this draw apart from other streams of the same seed
ARRAY_FILE = "images.npz"


class Samples(ABC):
    """One split: labels at hand, contents read when asked for.

    A label is an index into the data set's `class_names`; -1 says that the file's label is none
    of them. For language modelling the label is the document's category: it only steers how
    samples are dealt to devices. `groups`: whose each sample is, by number, where a column is asked
    for that tells it.
    """

    labels: Int64[np.ndarray, " sample"]
    groups: Int64[np.ndarray, " sample"] | None = None

    @abstractmethod
    def read(self, index: int) -> Content:
        """The content of one sample: RGB image at its native size, text, conversation, or row of
        tokens.

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
        if isinstance(content, TokenRow):
            return content.raw()
        if isinstance(content, Conversation | Completion):
            return json.dumps(asdict(content)).encode()
        return f"{content.dtype} {content.shape} ".encode() + content.tobytes()

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.labels)


@final
class Subset(Samples):
    """The samples at `indices` of another split, in that order."""

    def __init__(self, samples: Samples, indices: Int[np.ndarray, " chosen"]) -> None:
        self.labels = samples.labels[indices]
        self.groups = None if samples.groups is None else samples.groups[indices]
        self._samples = samples
        self._indices = indices

    def read(self, index: int) -> Content:
        return self._samples.read(int(self._indices[index]))

    def raw(self, index: int) -> bytes:
        return self._samples.raw(int(self._indices[index]))

    def where(self, index: int) -> str:
        return self._samples.where(int(self._indices[index]))


_READ_AS: dict[TextFormat, str] = {
    "text": "texts",
    "messages": "conversations",
    "sharegpt": "conversations (ShareGPT)",
    "prompt-completion": "prompts and completions",
    "alpaca": "instructions and outputs (Alpaca)",
}


@dataclass(frozen=True)
class TableReading:
    """How a table's rows are examples for a language model: the format, the column of each of its
    parts, and the columns that are not read."""

    format: TextFormat
    columns: tuple[tuple[str, str], ...]
    unread: tuple[str, ...] = ()

    def column(self, part: str) -> str | None:
        """The column of a part: turns, tools, system, prompt, completion, input."""
        return dict(self.columns).get(part)

    def __str__(self) -> str:
        """`conversations from column messages`"""
        names = [name for _, name in self.columns]
        title = f"{_READ_AS[self.format]} from column{'s' if len(names) > 1 else ''}"
        return f"{title} {', '.join(names)}"


@dataclass(frozen=True, eq=False)
class SplitPair:
    """What a loader of one form gives: both splits, the names of their classes, what it left out,
    and how examples of a language model were read of a table's columns."""

    train: Samples
    test: Samples
    class_names: tuple[str, ...]
    left_out: tuple[LeftOut, ...] = ()
    reading: TableReading | None = None

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
    reading: TableReading | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """A mini-batch as the model's forward takes it.

    `inputs` by the model's argument names: `pixel_values` float32 [row, 3, height, width], or
    `input_ids` and `attention_mask` int64 [row, token]. `lengths`: tokens of each row without its
    padding (None for images). `labels`: class of each row [row]; for language modelling the ids
    themselves [row, token], -100 wherever a token does not count (the model shifts them).
    `documents`: of rows in which several are packed, the lengths of each row's documents, which sum
    to its own; None where every row is one. They do not see each other, and each one's positions
    begin at 0.
    """

    inputs: dict[str, np.ndarray]
    lengths: tuple[int, ...] | None
    labels: Int64[np.ndarray, " row"] | Int64[np.ndarray, "row token"]
    documents: tuple[tuple[int, ...], ...] | None = None


class BatchMaker(ABC):
    """Turns samples into one mini-batch. `batches.ImageBatches`, `batches.TextBatches` and
    `rows.TokenBatches` do."""

    @abstractmethod
    def make(self, samples: Samples, indices: Int[np.ndarray, " row"]) -> Batch:
        """The mini-batch of the samples at `indices`, rows in that order.

        Raises `DataError` when a sample cannot be read or is of another kind.
        """


@dataclass(frozen=True)
class ReadSettings:
    """How a set is to be read: what `load.load_data` was asked.

    `test_fraction` None: of samples without a test split none are held out. `group_field`: the
    column that says whose each sample is; None: nobody asks.
    """

    task: Task | None = None
    text_field: str = "text"
    label_field: str = "label"
    test_fraction: float | None = 0.2
    seed: int = 0
    format: TextFormat | Literal["auto"] = "auto"
    group_field: str | None = None


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


@final
@dataclass(frozen=True, eq=False)
class TextRows(Samples):
    """Texts or conversations in memory. `raw_labels` as the file has them; `faults`: why a row has
    none or no label, by its index; `files`: the name of each row's own file, if it has one."""

    texts: tuple[TextContent | None, ...]
    labels: Int64[np.ndarray, " sample"]
    raw_labels: tuple[str | None, ...]
    lines: Int64[np.ndarray, " sample"]
    origin: str
    line_title: str = "line"
    files: tuple[str, ...] = ()
    faults: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    groups: Int64[np.ndarray, " sample"] | None = None

    def read(self, index: int) -> TextContent:
        text = self.texts[index]
        if index in self.faults or text is None:
            why = self.faults.get(index, "the row is broken or has no text")
            raise DataError(f"{self.where(index)}: {why}")
        return text

    def where(self, index: int) -> str:
        if self.files:
            return f"{self.origin}/{self.files[index]}"
        place = f"{self.origin} {self.line_title} {self.lines[index]}"
        raw = self.raw_labels[index]
        if self.labels[index] == UNKNOWN_LABEL and raw is not None:
            return f"{place} (label {quoted(raw)})"
        return place


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


# What a label, a class name and a text may be: one reading for every form that data have.
#
# `1`, `1.0` and `"1"` are one class, blanks around a name are none of it, and what stands for
# "missing" in a file is no class. Knows single values, no file.


# what pandas, R and spreadsheets write for a label that is not there
_MISSING = frozenset({"nan", "<na>", "#n/a"})
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?")
_WHOLE = re.compile(r"([+-]?\d{1,300})\.0*")
# letters of no width that copying from pages leaves behind; joiners only at the ends, since some
# scripts need them inside a word
_NO_WIDTH = re.compile(
    "[\u00ad\u034f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]|^[\u200c\u200d]+|[\u200c\u200d]+$"
)
_VISIBLE = re.compile("[^\\s\u00ad\u200b-\u200f\u2060\ufeff]")
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_TRUTH = (str(True), str(False))  # the classes of true and false


def read_label(value: object) -> str | None:
    """A label as the name of its class; None where it is missing (null, empty, NaN).

    Whole numbers are written without a point, blanks and letters without width around a text are
    dropped, and it is in Unicode's composed form. Raises `DataError` for what can be no class.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return None if value is None else str(value)
    if isinstance(value, str):
        return _text_label(value)
    if isinstance(value, int | float | Decimal):
        return _number_label(value)
    if isinstance(value, list | tuple | dict | bytes | np.ndarray):
        raise DataError(f"its label is {type_in_words(value)}, not a text or a number")
    return str(value)


def clean_name(text: str) -> str:
    """A name without what cannot be seen: runs of blanks are one blank, none at the ends."""
    return " ".join(_NO_WIDTH.sub("", unicodedata.normalize("NFC", text)).split())


def text_fault(value: object, field: str) -> str | None:
    """Why a value of the column `field` is no text that a model can read; None: it is."""
    if value is None or (isinstance(value, float) and value != value):
        return "it has no text"
    if not isinstance(value, str):
        return f"its {field!r} is {type_in_words(value)}, not a text"
    half = None if value.isascii() else _SURROGATE.search(value)
    if half is not None:
        return f"its text holds half a character (the lone surrogate U+{ord(half.group()):04X})"
    if "\0" in value:
        return "it holds a NUL character"
    return None if _VISIBLE.search(value) else "its text is empty"


def refuse_mixed_kinds(labels: Iterable[tuple[str, object]], origin: str) -> None:
    """Raises `DataError` for labels, given as `(place, value)`, of which some are true or false
    and others are numbers: nobody can tell whether `1` and `true` are one class.

    Of texts, as a CSV's labels all are, that is so where there are no other words among them. So
    for true or false beside the texts `true` or `false`, which would be classes of their own.
    """
    first: dict[tuple[str, bool], str] = {}
    spelt: str | None = None
    for place, value in labels:
        sort, text = _sort(value), isinstance(value, str)
        first.setdefault((sort, text), place)
        if spelt is None and sort == "truth" and text and read_label(value) not in _TRUTH:
            spelt = place
    texts = () if ("word", True) in first else (True,)
    places = {
        sort: next((first[sort, text] for text in (False, *texts) if (sort, text) in first), None)
        for sort in ("truth", "number")
    }
    if None not in places.values():
        raise DataError(
            f"{origin}: some labels are true or false ({places['truth']}), others are numbers "
            f"({places['number']}): write all of them one way"
        )
    if ("truth", False) in first and spelt is not None:
        raise DataError(
            f"{origin}: some labels are true or false ({first['truth', False]}), others are texts "
            f"that say so ({spelt}): write all of them one way"
        )


def _sort(value: object) -> str:
    """Whether a label is a truth value, a number or a word; empty where it is missing or none."""
    if isinstance(value, bool | np.bool_):
        return "truth"
    if isinstance(value, int | float | Decimal | np.number):
        return "number" if value == value else ""
    if not isinstance(value, str):
        return ""
    word = clean_name(value).casefold()
    if not word or word in _MISSING:
        return ""
    return "truth" if word in ("true", "false") else "number" if _NUMBER.fullmatch(word) else "word"


def alike_names(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of classes that a person would take for one: equal but for upper and lower case,
    Unicode's compatible letters or the spelling of a number."""
    seen: dict[str, str] = {}
    pairs = []
    for name in names:
        first = seen.setdefault(_folded(name), name)
        if first != name:
            pairs.append((first, name))
    return pairs


def _folded(name: str) -> str:
    folded = clean_name(unicodedata.normalize("NFKC", name)).casefold()
    if folded.isascii() and folded.isdigit():
        return folded.lstrip("0") or "0"
    short_number = len(folded) <= sys.float_info.dig and _NUMBER.fullmatch(folded)
    if not short_number:
        return folded
    value = float(folded) + 0.0  # no -0
    return str(int(value)) if value.is_integer() else str(value)


def _text_label(value: str) -> str | None:
    if _SURROGATE.search(value):
        raise DataError(f"its label {quoted(value)} holds half a character (a lone surrogate)")
    name = clean_name(value)
    if _CONTROL.search(name):
        raise DataError(f"its label {quoted(value)} holds a control character")
    if not name or name.casefold() in _MISSING:
        return None
    whole = _WHOLE.fullmatch(name)
    return str(int(whole.group(1))) if whole else name


def _number_label(value: int | float | Decimal) -> str | None:
    if isinstance(value, Decimal):
        whole = value.is_finite() and value.adjusted() < 300 and value == int(value)
        value = int(value) if whole else float("nan") if value.is_nan() else float(value)
    if value != value:
        return None
    if isinstance(value, float) and not np.isfinite(value):
        raise DataError(f"its label is {value}, not a finite number")
    return str(int(value) if value == int(value) else value)
