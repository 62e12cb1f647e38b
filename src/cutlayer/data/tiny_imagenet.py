"""Tiny-ImageNet in its folder form.

`train/WNID/images/*.JPEG`, `val/images/*.JPEG` with `val/val_annotations.txt` (file, wnid, box),
`words.txt` (wnid, words). Its `test` folder has no labels, so `val` is the test split.
"""

from pathlib import Path

from cutlayer.data.image_files import ImageFiles, image_paths
from cutlayer.data.samples import SplitPair
from cutlayer.data.splits import index_labels
from cutlayer.errors import DataError

_ANNOTATIONS = "val/val_annotations.txt"


def is_tiny_imagenet(folder: Path) -> bool:
    """Whether the folder has the annotations that only this form has."""
    return (folder / _ANNOTATIONS).is_file() and (folder / "train").is_dir()


def read_tiny_imagenet(folder: Path) -> SplitPair:
    """Both splits; a class's name is its first word in `words.txt`, or its wnid."""
    wnids = tuple(sorted(part.name for part in (folder / "train").iterdir() if part.is_dir()))
    trees = ((folder / "train" / wnid, wnid) for wnid in wnids)
    found = [(path, wnid) for tree, wnid in trees for path in sorted(image_paths(tree))]
    if not found:
        raise DataError(f"{folder}/train holds no images in WNID/images")
    words = _columns(folder / "words.txt") if (folder / "words.txt").is_file() else []
    names = {row[0]: row[1].split(",")[0] for row in words}
    rows = _columns(folder / _ANNOTATIONS)
    annotated = [(folder / "val" / "images" / row[0], row[1]) for row in rows]
    return SplitPair(
        _files(found, wnids),
        _files(annotated, wnids),
        tuple(names.get(wnid, wnid) for wnid in wnids),
    )


def _files(found: list[tuple[Path, str]], wnids: tuple[str, ...]) -> ImageFiles:
    labels = index_labels([wnid for _, wnid in found], wnids)
    return ImageFiles(tuple(path for path, _ in found), labels)


def _columns(path: Path) -> list[list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line.strip()]
    if any(len(row) < 2 for row in rows):
        raise DataError(f"{path} has a line without two tab-separated columns")
    return rows
