"""Icons-200: desktop icons 64x64 of 200 meanings, drawn by the themes of eight Debian packages.

The sizes of one drawing are near-duplicates, and some themes borrow from each other, so a random
split would mostly test memory. The theme that borrows least, elementary, is the test split: the
meanings are known, the drawings are not. A picture that occurs twice is kept once.

Debian releases ship different versions of the themes, each vouched for by apt, so there is no
one file hash to pin; `icon_names` fixes what the labels mean, and the record of the cached set
has the sha256 of the pictures themselves.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from cutlayer.data.arrays import write_arrays
from cutlayer.data.assets.icon_names import ICON_NAMES
from cutlayer.errors import AssetError, DataError

FOLDER = "usr/share/icons"
_SIDE = 64
_LEAST_SIDE, _MOST_SIDE = 22, 256  # smaller ones are other drawings, larger ones too few
_TEST_THEME = "elementary"

_Images = UInt8[np.ndarray, "sample 64 64 3"]
_Labels = Int64[np.ndarray, " sample"]


def convert(unpacked: Path, target: Path) -> None:
    """Write both splits in the array form. Raises `AssetError` when a class has no drawing."""
    train: list[tuple[np.ndarray, int]] = []
    test: list[tuple[np.ndarray, int]] = []
    seen: set[bytes] = set()
    # training themes first: a picture both have is theirs, and the test split stays unseen
    for path, label in sorted(_drawings(unpacked / FOLDER), key=lambda row: _is_test(row[0])):
        image = _picture(path)
        if image is not None and image.tobytes() not in seen:
            seen.add(image.tobytes())
            (test if _is_test(path) else train).append((image, label))
    missing = set(range(len(ICON_NAMES))) - {label for _, label in train}
    if missing or not test:
        names = ", ".join(ICON_NAMES[label] for label in sorted(missing)[:3])
        raise AssetError(f"these versions of the icon themes lack drawings of: {names or 'tests'}")
    write_arrays(target, _stack(train), _stack(test), ICON_NAMES)


def _drawings(icons: Path) -> Iterator[tuple[Path, int]]:
    """Every file of the 200 names and its class; a link is another file's picture."""
    classes = {name: label for label, name in enumerate(ICON_NAMES)}
    for path in sorted(icons.rglob("*.png")):
        if path.stem in classes and not path.is_symlink():
            yield path, classes[path.stem]


def _is_test(path: Path) -> bool:
    theme = path.parts[path.parts.index("icons") + 1]
    return theme.startswith(_TEST_THEME)


def _picture(path: Path) -> UInt8[np.ndarray, "64 64 3"] | None:
    """The icon on white at 64x64, None if it is of another size class or damaged."""
    from cutlayer.data.image_files import read_image
    from cutlayer.data.images import square

    try:
        image = read_image(path)
    except DataError:
        return None
    if not _LEAST_SIDE <= image.shape[1] <= _MOST_SIDE:
        return None
    return square(image, _SIDE)


def _stack(rows: list[tuple[np.ndarray, int]]) -> tuple[_Images, _Labels]:
    images = np.stack([image for image, _ in rows])
    return images, np.array([label for _, label in rows], np.int64)
