"""A folder of class folders of images: one tree to be split, or `train` and a test tree."""

from pathlib import Path

from cutlayer.data.image_files import ImageFiles, image_paths
from cutlayer.data.samples import SplitPair
from cutlayer.data.splits import TEST_NAMES, Settings, index_labels, split_off_test


def has_class_folders(folder: Path) -> bool:
    """Whether a folder below this one holds an image."""
    return any(True for part in _folders(folder) for _ in image_paths(part))


def read_image_folder(folder: Path, settings: Settings) -> SplitPair:
    """Both splits; the classes are the training tree's folders that hold images."""
    if not (folder / "train").is_dir():
        whole, names = _tree(folder, None)
        return split_off_test(whole, names, settings.test_fraction, settings.seed)
    train, names = _tree(folder / "train", None)
    for name in TEST_NAMES:
        if has_class_folders(folder / name):
            return SplitPair(train, _tree(folder / name, names)[0], names)
    return split_off_test(train, names, settings.test_fraction, settings.seed)


def _tree(folder: Path, names: tuple[str, ...] | None) -> tuple[ImageFiles, tuple[str, ...]]:
    by_class = {part.name: sorted(image_paths(part)) for part in _folders(folder)}
    names = names or tuple(name for name, paths in by_class.items() if paths)
    raw = [name for name, paths in by_class.items() for _ in paths]
    paths = tuple(path for paths in by_class.values() for path in paths)
    return ImageFiles(paths, index_labels(raw, names)), names


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        part for part in folder.iterdir() if part.is_dir() and not part.name.startswith(".")
    )
