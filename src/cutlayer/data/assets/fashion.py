"""Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 grey images 28x28, from its four idx files."""

import gzip
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from cutlayer.data.arrays import write_arrays

FOLDER = "usr/share/datasets/fashion-mnist"
_SIDE = 28
_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def convert(unpacked: Path, target: Path) -> None:
    """Write both splits in the array form."""
    source = unpacked / FOLDER
    write_arrays(target, _split(source, "train"), _split(source, "t10k"), _CLASSES)


def _split(
    source: Path, prefix: str
) -> tuple[UInt8[np.ndarray, "sample 28 28"], UInt8[np.ndarray, " sample"]]:
    images = _idx(source / f"{prefix}-images-idx3-ubyte.gz", header_bytes=16)
    return (
        images.reshape(-1, _SIDE, _SIDE),
        _idx(source / f"{prefix}-labels-idx1-ubyte.gz", header_bytes=8),
    )


def _idx(path: Path, header_bytes: int) -> UInt8[np.ndarray, " byte"]:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header_bytes)
