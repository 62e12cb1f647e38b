"""A folder of class folders of images: one tree to be split, or `train` and a test tree."""

from collections.abc import Sequence
from pathlib import Path

from cutlayer.data.image_files import ImageFiles, find_images, has_images
from cutlayer.data.labels import clean_name
from cutlayer.data.left_out import Tree, beside, is_hidden, listed, merged
from cutlayer.data.samples import LeftOut, SplitPair
from cutlayer.data.splits import TEST_NAMES, Settings, index_labels, split_off_test
from cutlayer.errors import DataError

_SPLITS = frozenset({"train", "training", "testing", "eval", "evaluation", *TEST_NAMES})


def has_class_folders(folder: Path) -> bool:
    """Whether a folder below this one holds an image."""
    return any(has_images(part) for part in _folders(folder))


def read_image_folder(folder: Path, settings: Settings) -> SplitPair:
    """Both splits; the classes are the training tree's folders.

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
            rest = (*rest, *others, *beside(folder, [folder / "train", folder / name]))
            return SplitPair(train, test, names, merged(rest))
    pair = split_off_test(train, names, settings.test_fraction, settings.seed)
    return pair.leaving_out(merged((*rest, *beside(folder, [folder / "train"]))))


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
    trees = [(_class_name(part), find_images(part)) for part in parts]
    rest = [*beside(folder, parts)]
    for part, (_, tree) in zip(parts, trees, strict=True):
        rest += _left_out(part, tree)
    names = names or tuple(dict.fromkeys(name for name, tree in trees if tree.paths))
    raw = [name for name, tree in trees for _ in tree.paths]
    paths = tuple(path for _, tree in trees for path in tree.paths)
    return ImageFiles(paths, index_labels(raw, names)), names, merged(rest)


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


def _class_name(part: Path) -> str:
    return clean_name(part.name) or part.name


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [part for part in listed(folder) if part.is_dir() and not is_hidden(part)]
