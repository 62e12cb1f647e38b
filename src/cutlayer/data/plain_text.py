"""Plain text for language modelling: `.txt` files, in a folder or alone.

In a folder each file is a document; a single file, or `train.txt` beside `test.txt`, is cut into
documents at blank lines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cutlayer.data.labels import text_fault
from cutlayer.data.left_out import beside, is_hidden, listed, merged
from cutlayer.data.samples import LeftOut, SplitPair
from cutlayer.data.splits import TEST_NAMES, Settings, split_off_test
from cutlayer.data.text_file import read_text, undecoded
from cutlayer.data.text_rows import UNLABELLED, Row, TextRows, text_rows
from cutlayer.errors import DataError

_CATEGORY = (UNLABELLED,)
_SUFFIX = ".txt"


def is_text_file(path: Path) -> bool:
    """Whether a path is a `.txt` file."""
    return path.is_file() and path.suffix.lower() == _SUFFIX


def has_text_files(folder: Path) -> bool:
    """Whether the folder, or its `train` folder, holds `.txt` files."""
    return bool(_text_files(folder) or _text_files(folder / "train"))


def read_plain_text(path: Path, settings: Settings) -> SplitPair:
    """Both splits of a `.txt` file or a folder of them.

    A document that is not UTF-8 is a bad sample. Raises `DataError` for a file that is no text.
    """
    if path.is_file():
        return _halved(_paragraphs(path), settings, ())
    train = _split(path, "train")
    if train is None:
        if (path / "train").is_dir():
            raise DataError(f"{path} has a train folder without .txt files")
        files = _text_files(path)
        return _halved(_documents(path, files), settings, beside(path, files))
    for name in TEST_NAMES:
        test = _split(path, name)
        if test is not None:
            used = (train.place, test.place)
            rest = merged((*train.left_out, *test.left_out, *beside(path, used)))
            return SplitPair(train.samples, test.samples, _CATEGORY, rest)
    rest = merged((*train.left_out, *beside(path, [train.place])))
    return _halved(train.samples, settings, rest)


@dataclass(frozen=True)
class _Split:
    """A split of a folder: its documents, the file or folder they are in, what else is there."""

    samples: TextRows
    place: Path
    left_out: tuple[LeftOut, ...]


def _halved(samples: TextRows, settings: Settings, rest: tuple[LeftOut, ...]) -> SplitPair:
    pair = split_off_test(samples, _CATEGORY, settings.test_fraction, settings.seed)
    return pair.leaving_out(rest)


def _split(folder: Path, name: str) -> _Split | None:
    alone, many = folder / f"{name}{_SUFFIX}", folder / name
    if alone.is_file():
        return _Split(_paragraphs(alone), alone, ())
    files = _text_files(many)
    return _Split(_documents(many, files), many, beside(many, files)) if files else None


def _text_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in listed(folder) if is_text_file(path) and not is_hidden(path)]


def _paragraphs(path: Path) -> TextRows:
    found: list[tuple[int, str]] = []
    open_lines: list[str] = []
    lines = [*read_text(path).splitlines(), ""]
    for number, line in enumerate(lines, start=1):
        if line.strip():
            open_lines.append(line)
        elif open_lines:
            found.append((number - len(open_lines), "\n".join(open_lines)))
            open_lines = []
    if not found:
        raise DataError(f"{path} holds no text")
    rows = [_row(line, text) for line, text in found]
    return text_rows(rows, _CATEGORY, str(path), "line")


def _documents(folder: Path, files: Sequence[Path]) -> TextRows:
    rows = [_document(path) for path in files]
    return text_rows(rows, _CATEGORY, str(folder), "file", tuple(path.name for path in files))


def _document(path: Path) -> Row:
    try:
        return _row(1, _universal(read_text(path)))
    except DataError as error:
        return Row(1, None, UNLABELLED, str(error))


def _universal(text: str) -> str:
    """Line ends as Python's text files give them."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _row(line: int, text: str) -> Row:
    fault = undecoded(text) or text_fault(text, "text")
    return Row(line, text if fault is None else None, UNLABELLED, fault)
