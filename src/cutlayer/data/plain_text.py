"""Plain text for language modelling: `.txt` files, in a folder or alone.

In a folder each file is a document; a single file, or `train.txt` beside `test.txt`, is cut into
documents at blank lines.
"""

from pathlib import Path

import numpy as np

from cutlayer.data.samples import SplitPair
from cutlayer.data.splits import TEST_NAMES, Settings, split_off_test
from cutlayer.data.tables import TextRows
from cutlayer.errors import DataError

_CATEGORY = ("text",)


def has_text_files(folder: Path) -> bool:
    """Whether the folder, or its `train` folder, holds `.txt` files."""
    return any(folder.glob("*.txt")) or any((folder / "train").glob("*.txt"))


def read_plain_text(path: Path, settings: Settings) -> SplitPair:
    """Both splits of a `.txt` file or a folder of them. Raises `DataError` when not UTF-8 text."""
    if path.is_file():
        whole = _paragraphs(path)
    elif (path / "train.txt").is_file() or (path / "train").is_dir():
        return _given_splits(path, settings)
    else:
        whole = _documents(path)
    return split_off_test(whole, _CATEGORY, settings.test_fraction, settings.seed)


def _given_splits(folder: Path, settings: Settings) -> SplitPair:
    train = _split(folder, "train")
    if train is None:
        raise DataError(f"{folder} has a train folder without .txt files")
    for name in TEST_NAMES:
        test = _split(folder, name)
        if test is not None:
            return SplitPair(train, test, _CATEGORY)
    return split_off_test(train, _CATEGORY, settings.test_fraction, settings.seed)


def _split(folder: Path, name: str) -> TextRows | None:
    if (folder / f"{name}.txt").is_file():
        return _paragraphs(folder / f"{name}.txt")
    return _documents(folder / name) if any((folder / name).glob("*.txt")) else None


def _paragraphs(path: Path) -> TextRows:
    found: list[tuple[int, str]] = []
    open_lines: list[str] = []
    lines = [*_read(path).splitlines(), ""]
    for number, line in enumerate(lines, start=1):
        if line.strip():
            open_lines.append(line)
        elif open_lines:
            found.append((number - len(open_lines), "\n".join(open_lines)))
            open_lines = []
    if not found:
        raise DataError(f"{path} holds no text")
    return _rows([text for _, text in found], [line for line, _ in found], str(path))


def _documents(folder: Path) -> TextRows:
    paths = sorted(folder.glob("*.txt"))
    return _rows([_read(path) for path in paths], [1] * len(paths), str(folder))


def _rows(texts: list[str], lines: list[int], origin: str) -> TextRows:
    return TextRows(
        texts=tuple(texts),
        labels=np.zeros(len(texts), np.int64),
        raw_labels=_CATEGORY * len(texts),
        lines=np.array(lines, np.int64),
        origin=origin,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from error
