"""Tiny-ImageNet in its folder form.

`train/WNID/images/*.JPEG`, `val/images/*.JPEG` with `val/val_annotations.txt` (file, wnid, box),
`words.txt` (wnid, words). Its `test` folder has no labels, so `val` is the test split.
"""

from pathlib import Path

from cutlayer.data.image_files import ImageFiles, find_images
from cutlayer.data.left_out import beside, is_hidden, listed, merged
from cutlayer.data.samples import LeftOut, SplitPair
from cutlayer.data.splits import index_labels
from cutlayer.data.text_file import read_text
from cutlayer.errors import DataError

_ANNOTATIONS = "val/val_annotations.txt"


def is_tiny_imagenet(folder: Path) -> bool:
    """Whether the folder has the annotations that only this form has."""
    return (folder / _ANNOTATIONS).is_file() and (folder / "train").is_dir()


def read_tiny_imagenet(folder: Path) -> SplitPair:
    """Both splits; a class's name is its first word in `words.txt`, or its wnid."""
    parts = [part for part in listed(folder / "train") if part.is_dir() and not is_hidden(part)]
    trees = {part.name: find_images(part) for part in parts}
    found = [(path, wnid) for wnid, tree in trees.items() for path in tree.paths]
    if not found:
        raise DataError(f"{folder}/train holds no images in WNID/images")
    words = _columns(folder / "words.txt") if (folder / "words.txt").is_file() else []
    names = {row[0]: row[1].split(",")[0] for row in words}
    rows = _columns(folder / _ANNOTATIONS)
    annotated = [(folder / "val" / "images" / row[0], row[1]) for row in rows]
    rest = [LeftOut("files", why, n) for tree in trees.values() for why, n in tree.others.items()]
    rest += beside(folder, [folder / "train", folder / "val", folder / "words.txt"])
    rest += beside(folder / "train", parts)
    rest += _unlabelled(folder, {path for path, _ in annotated})
    wnids = tuple(trees)
    return SplitPair(
        _files(found, wnids),
        _files(annotated, wnids),
        tuple(names.get(wnid, wnid) for wnid in wnids),
        merged(rest),
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
