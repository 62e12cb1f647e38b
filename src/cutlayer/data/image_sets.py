"""Images in every form of files that is read: class folders, arrays, CIFAR-100, Tiny-ImageNet.

One file a sample is read when asked for, as RGB at its native size. Knows no model input: `batches`
does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps

from cutlayer.data.left_out import (
    Tree,
    fault_of,
    holds_any,
    is_hidden,
    left_beside,
    list_folder,
    merge_left_out,
    read_tree,
)
from cutlayer.data.records import read_text
from cutlayer.data.samples import (
    ARRAY_FILE,
    TEST_NAMES,
    ImageArray,
    ReadSettings,
    Samples,
    SplitPair,
    clean_name,
    index_labels,
    split_off_test,
)
from cutlayer.errors import DataError, reason
from cutlayer.spec import LeftOut

# what Pillow opens only with another program's help, or is no picture
_NO_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})
_SIXTEEN_BITS = 65535
_EIGHT_BITS = 255
# folders that are no classes
_SPLITS = frozenset({"train", "training", "testing", "eval", "evaluation", *TEST_NAMES})
# of CIFAR-100
_SIDE = 32
_LABEL_BYTES = 2
_RECORD_BYTES = _LABEL_BYTES + 3 * _SIDE * _SIDE
_NAMES = "fine_label_names.txt"
_CLASSES = 100
CIFAR100_FILES = ("train.bin", "test.bin", _NAMES)
# of Tiny-ImageNet
_ANNOTATIONS = "val/val_annotations.txt"


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
        return to_rgb(ImageOps.exif_transpose(image), known_depth)


def central_square(
    image: UInt8[np.ndarray, "height width 3"],
    side: int,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> UInt8[np.ndarray, "side side 3"]:
    """The central square of an image, resized to `side` pixels with Pillow's filter."""
    height, width, _ = image.shape
    edge = min(height, width)
    left, top = (width - edge) / 2, (height - edge) / 2
    if edge == side == height == width:
        return image
    resized = Image.fromarray(image).resize(
        (side, side), resample, box=(left, top, left + edge, top + edge)
    )
    return np.asarray(resized)


def to_rgb(image: Image.Image, known_depth: bool = False) -> UInt8[np.ndarray, "height width 3"]:
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
        f"its values of 32 bits reach from {low:g} to {high:g}, so black and white are "
        "unknown: save it with 8 or 16 bits per pixel"
    )


def has_class_folders(folder: Path) -> bool:
    """Whether a folder below this one holds an image."""
    return any(has_images(part) for part in _folders(folder))


def read_image_folder(folder: Path, settings: ReadSettings) -> SplitPair:
    """Both splits of class folders, in `train` and a test tree or in one tree to be split; the
    classes are the training tree's folders.

    Raises `DataError` when a class has files but none that can be read as an image, and for
    splits that are named otherwise, which would be taken for classes.
    """
    if not has_class_folders(folder / "train"):
        _refuse_splits(folder)
        whole, names, rest = _tree(folder, None)
        pair = split_off_test(whole, names, settings.test_fraction, settings.seed)
        return pair.leaving_out(rest)
    train, names, rest = _tree(folder / "train", None)
    for name in TEST_NAMES:
        if has_class_folders(folder / name):
            test, _, others = _tree(folder / name, names)
            rest = (*rest, *others, *left_beside(folder, [folder / "train", folder / name]))
            return SplitPair(train, test, names, merge_left_out(rest))
    pair = split_off_test(train, names, settings.test_fraction, settings.seed)
    return pair.leaving_out(merge_left_out((*rest, *left_beside(folder, [folder / "train"]))))


def _refuse_splits(folder: Path) -> None:
    """Raises `DataError` where class folders lie in folders that are called as splits are."""
    parts = [part for part in _folders(folder) if part.name.lower() in _SPLITS]
    splits = [part.name for part in parts if has_class_folders(part)]
    if splits:
        raise DataError(
            f"{folder} holds class folders in {', '.join(splits)}, and none in train: name the"
            " training split train and the test split test, or choose one of them as the data"
        )


def _tree(
    folder: Path, names: tuple[str, ...] | None
) -> tuple[ImageFiles, tuple[str, ...], tuple[LeftOut, ...]]:
    """The images of a tree, its classes (or those given), and what is left out of it."""
    parts = _folders(folder)
    trees = [(clean_name(part.name) or part.name, find_images(part)) for part in parts]
    rest = [*left_beside(folder, parts)]
    for part, (_, tree) in zip(parts, trees, strict=True):
        rest += _left_out(part, tree)
    names = names or tuple(dict.fromkeys(name for name, tree in trees if tree.paths))
    raw = [name for name, tree in trees for _ in tree.paths]
    paths = tuple(path for _, tree in trees for path in tree.paths)
    return ImageFiles(paths, index_labels(raw, names)), names, merge_left_out(rest)


def _left_out(part: Path, tree: Tree) -> Sequence[LeftOut]:
    seen = [LeftOut("files", why, count) for why, count in tree.others.items()]
    if tree.paths:
        return seen
    strange = [f"{item.count} {item.why}" for item in seen if item.why != "hidden"]
    if strange:
        raise DataError(
            f"{part}: the class has no image that can be read, but {', '.join(strange)}: convert "
            "them to PNG or JPEG, or move the folder away"
        )
    return [*seen, LeftOut("class folders", f"empty ({part.name})", 1)]


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [part for part in list_folder(folder) if part.is_dir() and not is_hidden(part)]


def read_arrays(folder: Path) -> SplitPair:
    """Both splits of `folder/images.npz`. Raises `DataError` when the file is not of this form."""
    path = folder / ARRAY_FILE
    title = f"{path} is not a readable image array file"
    with fault_of(title), np.load(path, allow_pickle=False) as file:
        names = tuple(clean_name(str(name)) or str(name) for name in file["class_names"])
        train, test = (_array_split(file, split, path) for split in ("train", "test"))
    return SplitPair(train, test, names)


def _array_split(file: np.lib.npyio.NpzFile, split: str, path: Path) -> ImageArray:
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


def is_cifar100(folder: Path) -> bool:
    """Whether the folder holds both binary files."""
    return all((folder / f"{split}.bin").is_file() for split in ("train", "test"))


def read_cifar100(folder: Path) -> SplitPair:
    """Both splits of CIFAR-100's binary form with the fine labels: `train.bin`, `test.bin`,
    `fine_label_names.txt`.

    A record is 3,074 bytes: coarse label, fine label, then 32x32 pixels, red plane first. Raises
    `DataError` when a file is not whole records. Source: Krizhevsky 2009, the data set's page.
    """
    listing = folder / _NAMES
    if listing.is_file():
        names = tuple(read_text(listing).split())
    else:
        names = tuple(str(label) for label in range(_CLASSES))
    return SplitPair(_read_records(folder / "train.bin"), _read_records(folder / "test.bin"), names)


def _read_records(path: Path) -> ImageArray:
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error
    if not len(content) or len(content) % _RECORD_BYTES:
        raise DataError(
            f"{path} has {len(content)} bytes, not a multiple of a CIFAR-100 record's "
            f"{_RECORD_BYTES}: it is cut short or of another kind"
        )
    records = content.reshape(-1, _RECORD_BYTES)
    planes = records[:, _LABEL_BYTES:].reshape(-1, 3, _SIDE, _SIDE)
    return ImageArray(planes.transpose(0, 2, 3, 1), records[:, 1].astype(np.int64), str(path))


def is_tiny_imagenet(folder: Path) -> bool:
    """Whether the folder has the annotations that only this form has."""
    return (folder / _ANNOTATIONS).is_file() and (folder / "train").is_dir()


def read_tiny_imagenet(folder: Path) -> SplitPair:
    """Both splits of Tiny-ImageNet's folder form; a class's name is its first word in `words.txt`,
    or its wnid.

    `train/WNID/images/*.JPEG`, `val/images/*.JPEG` with `val/val_annotations.txt` (file, wnid,
    box), `words.txt` (wnid, words). Its `test` folder has no labels, so `val` is the test split.
    """
    parts = _folders(folder / "train")
    trees = {part.name: find_images(part) for part in parts}
    found = [(path, wnid) for wnid, tree in trees.items() for path in tree.paths]
    if not found:
        raise DataError(f"{folder}/train holds no images in WNID/images")
    words = _columns(folder / "words.txt") if (folder / "words.txt").is_file() else []
    names = {row[0]: row[1].split(",")[0] for row in words}
    rows = _columns(folder / _ANNOTATIONS)
    annotated = [(folder / "val" / "images" / row[0], row[1]) for row in rows]
    rest = [LeftOut("files", why, n) for tree in trees.values() for why, n in tree.others.items()]
    rest += left_beside(folder, [folder / "train", folder / "val", folder / "words.txt"])
    rest += left_beside(folder / "train", parts)
    rest += _unlabelled(folder, {path for path, _ in annotated})
    wnids = tuple(trees)
    return SplitPair(
        _files(found, wnids),
        _files(annotated, wnids),
        tuple(names.get(wnid, wnid) for wnid in wnids),
        merge_left_out(rest),
    )


def _unlabelled(folder: Path, annotated: set[Path]) -> list[LeftOut]:
    images = find_images(folder / "val" / "images").paths if (folder / "val").is_dir() else ()
    count = sum(path not in annotated for path in images)
    return [LeftOut("files", "of val without an annotation", count)] if count else []


def _files(found: list[tuple[Path, str]], wnids: tuple[str, ...]) -> ImageFiles:
    labels = index_labels([wnid for _, wnid in found], wnids)
    return ImageFiles(tuple(path for path, _ in found), labels)


def _columns(path: Path) -> list[list[str]]:
    lines = read_text(path).splitlines()
    rows = [line.split("\t") for line in lines if line.strip()]
    if any(len(row) < 2 for row in rows):
        raise DataError(f"{path} has a line without two tab-separated columns")
    return rows
