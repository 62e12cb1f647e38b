"""CIFAR-100 in its binary form: `train.bin`, `test.bin`, `fine_label_names.txt`.

A record is 3,074 bytes: coarse label, fine label, then 32x32 pixels, red plane first.
Source: Krizhevsky 2009, the data set's page.
"""

from pathlib import Path

import numpy as np

from cutlayer.data.arrays import ImageArray
from cutlayer.data.samples import SplitPair
from cutlayer.data.text_file import read_text
from cutlayer.errors import DataError

_SIDE = 32
_LABEL_BYTES = 2
_RECORD_BYTES = _LABEL_BYTES + 3 * _SIDE * _SIDE
_NAMES = "fine_label_names.txt"
_CLASSES = 100
FILES = ("train.bin", "test.bin", _NAMES)


def is_cifar100(folder: Path) -> bool:
    """Whether the folder holds both binary files."""
    return all((folder / f"{split}.bin").is_file() for split in ("train", "test"))


def read_cifar100(folder: Path) -> SplitPair:
    """Both splits with the fine labels. Raises `DataError` when a file is not whole records."""
    listing = folder / _NAMES
    if listing.is_file():
        names = tuple(read_text(listing).split())
    else:
        names = tuple(str(label) for label in range(_CLASSES))
    return SplitPair(_read(folder / "train.bin"), _read(folder / "test.bin"), names)


def _read(path: Path) -> ImageArray:
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not len(content) or len(content) % _RECORD_BYTES:
        raise DataError(
            f"{path} has {len(content)} bytes, not a multiple of a CIFAR-100 record's "
            f"{_RECORD_BYTES}: it is cut short or of another kind"
        )
    records = content.reshape(-1, _RECORD_BYTES)
    planes = records[:, _LABEL_BYTES:].reshape(-1, 3, _SIDE, _SIDE)
    return ImageArray(planes.transpose(0, 2, 3, 1), records[:, 1].astype(np.int64), str(path))
