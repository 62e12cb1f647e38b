"""Images in files, one file a sample: read when asked for, as RGB at their native size."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps

from cutlayer.data.samples import Samples
from cutlayer.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


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
    """A picture as RGB, turned as its camera says, on white where it is transparent.

    Raises `DataError` when it is missing, damaged, cut short or too large to be a picture.
    """
    try:
        with Image.open(path) as image:
            return rgb(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a readable image: {error}") from error


def rgb(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    """Any picture as an RGB array, on white where it is transparent."""
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, layered)
    return np.asarray(image.convert("RGB"))


def image_paths(folder: Path) -> Iterator[Path]:
    """The image files anywhere below a folder, hidden ones left out, in no order."""
    for path in folder.rglob("*"):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            yield path
