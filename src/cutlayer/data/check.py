"""Whether samples can be used: their kind and sizes, and every sample read once before training."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import quote, unquote

import numpy as np
from jaxtyping import Int64

from cutlayer.data.assets.catalogue import known_asset
from cutlayer.data.chats import record_of
from cutlayer.data.samples import (
    DataSet,
    Samples,
    Subset,
    TextContent,
    Tokenize,
    TokenRow,
    text_fault,
)
from cutlayer.errors import ConfigError, DataError, ModelError, brief_error, reason
from cutlayer.spec import Task, TextFormat

OnBad: TypeAlias = Literal["stop", "skip"]
_NAMED = 5
# a model for each task that comes in a package
_MODELS: dict[Task, str] = {
    "image-classification": "dinov2-small",
    "text-classification": "minilm",
    "causal-lm": "smollm2",
}


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
    if isinstance(content, TokenRow):
        content = content.ids
    empty = isinstance(content, np.ndarray) and not content.size
    return "it has no content" if empty else None


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


# A part of a data set as plain files that a person can look at: what a device's own data may be.
#
# Pictures as PNG in class folders, texts as JSON lines. Knows the data set's training split; no
# device and no link.


TABLE = "train.jsonl"


@dataclass(frozen=True)
class Part:
    """Part `number` of `of`, from 1 on: every `of`-th sample, so that parts are alike."""

    number: int = 1
    of: int = 1

    def indices(self, samples: int, most: int | None) -> Int64[np.ndarray, " chosen"]:
        """Which of so many samples; at most `most`, spread evenly over the part."""
        mine = np.arange(self.number - 1, samples, self.of)
        if most is None or most >= len(mine):
            return mine
        return mine[np.arange(most) * len(mine) // most]


def read_part(text: str) -> Part:
    """The part that `K/N` names. Raises `DataError`."""
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise DataError(f"{text[:80]!r} is no part: 2/3 is the second of three")
    return Part(int(number), int(of))


def export_part(data: DataSet, folder: Path, part: Part, most: int | None = None) -> int:
    """Write that part of the training split into `folder`, which may not be there yet; how many
    samples it has.

    Raises `DataError` if the folder has something in it, the part nothing, or a sample cannot be
    read.
    """
    chosen = part.indices(len(data.train), most)
    if not len(chosen):
        raise DataError(
            f"{data.name} has {len(data.train)} samples: no part {part.number}/{part.of}"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists already: name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    if data.task == "image-classification":
        _write_pictures(folder, data.train, data.class_names, chosen)
    else:
        _write_texts(folder / TABLE, data, chosen)
    return len(chosen)


def _write_pictures(
    folder: Path, samples: Samples, names: Sequence[str], chosen: Int64[np.ndarray, " chosen"]
) -> None:
    from PIL import Image

    folders = [folder / folder_name(name, names) for name in names]
    digits = len(str(len(samples) - 1))
    for index in chosen.tolist():
        place = folders[int(samples.labels[index])]
        place.mkdir(exist_ok=True)
        Image.fromarray(np.asarray(samples.read(index))).save(place / f"{index:0{digits}d}.png")


def _write_texts(path: Path, data: DataSet, chosen: Int64[np.ndarray, " chosen"]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for index in chosen.tolist():
            content = data.train.read(index)
            if not isinstance(content, TextContent):
                raise DataError(f"{data.train.where(index)} is no text that can be written")
            row = record_of(content)
            if data.task != "causal-lm":
                row["label"] = data.class_names[int(data.train.labels[index])]
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def folder_name(name: str, names: Sequence[str]) -> str:
    """The folder for the class `name` of `names`: with `_` for `/`, which no folder's name has, or
    in percent signs where that would be another class's too, or be hidden."""
    plain = name.replace("/", "_")
    alike = [other for other in names if plain in (other, other.replace("/", "_"))]
    if alike == [name] and not plain.startswith(".") and unquote(plain) == plain:
        return plain
    return quote(name, safe=" ").replace(".", "%2E")


def class_of(folder: str, names: Sequence[str]) -> str | None:
    """The class of `names` that a folder or label is of; None if of none. A folder `T-shirt_top` or
    `T-shirt%2Ftop` is of the class `T-shirt/top`.

    The name itself comes first. Raises `DataError` where `_` may stand for two of them.
    """
    for spelt in (folder, unquote(folder)):
        if spelt in names:
            return spelt
    alike = [name for name in names if name.replace("/", "_") == folder]
    if len(alike) > 1:
        raise DataError(
            f"{folder!r} may be {' or '.join(repr(name) for name in alike)}: write %2F where a"
            " slash is meant"
        )
    return alike[0] if alike else None


# Before any sample is read: whether data are of the kind and the sizes that a model takes.


def check_sizes(
    image_size: int, max_tokens: int, model: str, *, limit: int | None, side: int | None
) -> None:
    """Raises ConfigError for texts of more tokens than `limit`, or images that patches of `side`
    pixels do not fill; None: the model has no such thing."""
    if limit is not None and max_tokens > limit:
        raise ConfigError(
            f"data.max_tokens is {max_tokens}, {model} takes texts of at most {limit} tokens: set"
            f" data.max_tokens to {limit} or less"
        )
    if side is not None and image_size % side:
        lower = image_size // side * side
        near = " or ".join(str(size) for size in (lower, lower + side) if size)
        raise ConfigError(
            f"data.image_size is {image_size}, {model} cuts images into patches of {side} pixels:"
            f" set it to a multiple, such as {near}"
        )


def asked_task(task: Task | None, format: TextFormat | Literal["auto"]) -> Task | None:
    """The task that is asked for, by itself or by a format of its data. Raises ConfigError where
    the two are at odds."""
    if format in ("auto", "text"):
        return task
    if task not in (None, "causal-lm"):
        raise ConfigError(
            f"data.format {format} is for language models, but data.task is {task}: leave one out"
        )
    return "causal-lm"


def known_task(name: str) -> Task | None:
    """What a data set is for that is known by its short name, before it is fetched."""
    asset = None if Path(name).expanduser().exists() else known_asset(name, "data")
    return asset.task if asset is not None else None


def other_task(model: str, serves: Sequence[Task], data: str, task: Task) -> DataError:
    """What is said where a model serves other tasks than the one that data are for."""
    return DataError(
        f"model {model} is for {' or '.join(serves)}, data {data} for {task}: choose other data, or"
        f" a model such as {_MODELS[task]}"
    )
