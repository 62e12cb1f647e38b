"""Each device's samples as a folder that `cutlayer join --data` reads.

They are in the order in which the partition deals them, so that a device makes the mini-batches
that the trainer makes. Knows prepared data; no device and no link.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Int64

from cutlayer.config.dataset import Prepared
from cutlayer.data.arrays import write_arrays
from cutlayer.data.samples import DataSet
from cutlayer.data.tables import write_json_lines
from cutlayer.errors import DataError

_TABLE = "train.jsonl"


def write_samples(folder: Path, prepared: Prepared, device: int) -> Path:
    """Write the samples of one device into a new `folder`.

    Raises DataError for images of several sizes, and for a language model: its samples are blocks
    of tokens, not texts.
    """
    data, part = prepared.data, prepared.parts[device]
    if prepared.task == "causal-lm":
        raise DataError(
            f"{data.name}: the lab deals images and labelled texts; the blocks of a language model"
            " are dealt by `cutlayer train` alone"
        )
    folder.mkdir(parents=True)
    if prepared.task == "image-classification":
        _write_images(folder, data, part)
    else:
        _write_texts(folder, data, part)
    return folder


def _write_images(folder: Path, data: DataSet, part: Int64[np.ndarray, " sample"]) -> None:
    images = [np.asarray(data.train.read(int(index))) for index in part]
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise DataError(
            f"{data.name} has images of {len(sizes)} sizes: the lab deals images of one size alone"
        )
    train = (np.stack(images), data.train.labels[part])
    write_arrays(folder, train, (train[0][:0], train[1][:0]), data.class_names)


def _write_texts(folder: Path, data: DataSet, part: Int64[np.ndarray, " sample"]) -> None:
    rows = [
        (str(data.train.read(int(index))), data.class_names[int(data.train.labels[index])])
        for index in part
    ]
    write_json_lines(folder / _TABLE, rows)
