"""Images in files, one file a sample: read when asked for, as RGB at their native size."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps

from cutlayer.data.faults import fault_of
from cutlayer.data.left_out import Tree, holds_any, read_tree
from cutlayer.data.samples import Samples
from cutlayer.errors import DataError

# what Pillow opens only with another program's help, or is no picture
_NO_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})
_SIXTEEN_BITS = 65535
_EIGHT_BITS = 255


@final
@dataclass(frozen=True, eq=False)
class ImageFiles(Samples):
    """Image files and their labels."""

    paths: tuple[Path, ...]
    labels: Int64[np.ndarray, " sample"]

    def read(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        return read_image(self.paths[index])

    def raw(self, index: int) -> bytes:
        try:
            return self.paths[index].read_bytes()
        except OSError as error:
            raise DataError(f"{self.paths[index]} cannot be read: {error.strerror}") from error

    def where(self, index: int) -> str:
        return str(self.paths[index])


def read_image(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """A picture as RGB, turned as its camera says, on white where it is transparent; of several
    frames the first.

    Raises `DataError` when it is missing, damaged, cut short, too large to be a picture, or of
    values whose black and white nobody can tell.
    """
    with fault_of(f"{path} is not a readable image"), Image.open(path) as image:
        known_depth = image.format == "PPM"  # its reader scales to the full 16 bits
        return rgb(ImageOps.exif_transpose(image), known_depth)


def rgb(image: Image.Image, known_depth: bool = False) -> UInt8[np.ndarray, "height width 3"]:
    """Any picture as an RGB array, on white where it is transparent.

    Grey of 16 bits is scaled to 8. Whole numbers of 32 bits are taken for 16 where they need more
    than 8 (or `known_depth`), floats as 0 to 1 or, above 255, as 16 bits. Raises `DataError` for
    other ranges.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image, known_depth)
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, layered)
    return np.asarray(image.convert("RGB"))


@lru_cache(maxsize=1)
def image_suffixes() -> frozenset[str]:
    """The suffixes of what this Pillow reads, lower case."""
    return frozenset(
        suffix
        for suffix, kind in Image.registered_extensions().items()
        if kind == "MPO" or (kind in Image.OPEN and kind not in _NO_PICTURES)
    )


def find_images(folder: Path) -> Tree:
    """The image files anywhere below a folder, in order, and what else lies there."""
    return read_tree(folder, _is_image)


def has_images(folder: Path) -> bool:
    """Whether `find_images` would find one."""
    return holds_any(folder, _is_image)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in image_suffixes()


def _from_deep_grey(image: Image.Image, known_depth: bool) -> UInt8[np.ndarray, "height width 3"]:
    values = np.asarray(image)
    white = _SIXTEEN_BITS if image.mode.startswith("I;16") else _white(values, known_depth)
    grey = np.rint(values.astype(np.float64) * (_EIGHT_BITS / white)).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey = np.where(values == clear, np.uint8(_EIGHT_BITS), grey)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _white(values: np.ndarray, known_depth: bool) -> int:
    """The value that is white in a picture of 32 bits a pixel."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if low == high == 0.0:
        return 1
    whole = np.issubdtype(values.dtype, np.integer)
    if low >= 0.0 and not whole and high <= 1.0:
        return 1
    deep = high > _EIGHT_BITS or (whole and known_depth)
    if low >= 0.0 and deep and high <= _SIXTEEN_BITS:
        return _SIXTEEN_BITS
    raise DataError(
        f"its values of 32 bits reach from {low:g} to {high:g}, so nobody can tell black and "
        "white: save it with 8 or 16 bits a pixel"
    )
