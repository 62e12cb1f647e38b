"""The array form of an image set: one `images.npz` with both splits, ready in memory.

Keys: `train_images`, `test_images` uint8 [sample, height, width] or [sample, height, width, 3];
`train_labels`, `test_labels` int [sample]; `class_names` text [class]. Never holds pickled objects.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Int64, Integer, UInt8

from cutlayer.data.faults import fault_of
from cutlayer.data.labels import clean_name
from cutlayer.data.samples import Samples, SplitPair
from cutlayer.errors import DataError

FILE = "images.npz"


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
    """Write both splits, each `(images, labels)`, as `folder/images.npz`."""
    np.savez(
        folder / FILE,
        train_images=train[0],
        train_labels=train[1],
        test_images=test[0],
        test_labels=test[1],
        class_names=np.array(class_names),
    )


def read_arrays(folder: Path) -> SplitPair:
    """Both splits of `folder/images.npz`. Raises `DataError` when the file is not of this form."""
    path = folder / FILE
    title = f"{path} is not a readable image array file"
    with fault_of(title), np.load(path, allow_pickle=False) as file:
        names = tuple(clean_name(str(name)) or str(name) for name in file["class_names"])
        train, test = (_split(file, split, path) for split in ("train", "test"))
    return SplitPair(train, test, names)


def _split(file: np.lib.npyio.NpzFile, split: str, path: Path) -> ImageArray:
    images, labels = file[f"{split}_images"], file[f"{split}_labels"]
    shape_fits = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
    if images.dtype != np.uint8 or not shape_fits or labels.shape != images.shape[:1]:
        raise DataError(
            f"{split}_images is {images.dtype} {images.shape} with labels {labels.shape}; "
            "expected uint8 [sample, height, width] or [sample, height, width, 3]"
        )
    if not (np.issubdtype(labels.dtype, np.integer) or np.array_equal(labels, np.rint(labels))):
        raise DataError(f"{split}_labels are not whole numbers, as indices of classes are")
    return ImageArray(images, labels.astype(np.int64), f"{path.name} {split}")
