"""A part of a data set as plain files that a person can look at: what a device's own data may be.

Pictures as PNG in class folders, texts as JSON lines. Knows the data set's training split; no
device and no link.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
from jaxtyping import Int64

from cutlayer.data.samples import DataSet, Samples
from cutlayer.errors import DataError

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
            row = {"text": str(data.train.read(index))}
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
