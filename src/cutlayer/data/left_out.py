"""What lies beside the samples and is none: found, counted and told with its reason.

Every file below a data set is a sample, refused by name, or counted here.
"""

import contextlib
import io
import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cutlayer.errors import DataError, reason
from cutlayer.spec import LeftOut

# what systems and editors put into folders of pictures, lower case
_HIDDEN = frozenset(
    {
        *("@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "lost+found"),
        *("__macosx", "__pycache__", "system volume information"),
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
    }
)
_OWN = "asset.json"  # what cutlayer itself writes beside a set that it fetched
_NAMED = 4
_PAPERS = ("hidden", ".md", ".rst", ".txt", "license", "readme")


@dataclass(frozen=True)
class Tree:
    """The files below a folder: those wanted, in order, and how many others for which reason."""

    paths: tuple[Path, ...]
    others: Counter[str]


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is there for a system or an editor: `.cache`, `@eaDir`,
    `__MACOSX`, `Thumbs.db`."""
    return path.name.startswith(".") or path.name.lower() in _HIDDEN


def read_tree(folder: Path, wanted: Callable[[Path], bool]) -> Tree:
    """All files below a folder, through links to folders too. Raises `DataError` where one cannot
    be listed."""
    paths: list[Path] = []
    others: Counter[str] = Counter()
    for found in _files(folder):
        why = _why_not(found, wanted)
        if why is None:
            paths.append(found.path)
        else:
            others[why] += 1
    return Tree(tuple(sorted(paths)), others)


def holds_any(folder: Path, wanted: Callable[[Path], bool]) -> bool:
    """Whether `read_tree` would find a file that is wanted."""
    return any(_why_not(found, wanted) is None for found in _files(folder))


def left_beside(folder: Path, used: Sequence[Path]) -> tuple[LeftOut, ...]:
    """What lies in a folder and is not in `used`: files by their suffix, or by their name where
    it is the only one; folders with the number of files in them."""
    rest = [path for path in list_folder(folder) if path not in used and path.name != _OWN]
    suffixes = Counter(path.suffix for path in rest if not is_hidden(path))
    return merge_left_out(_beside(path, suffixes) for path in rest)


def _beside(path: Path, suffixes: Counter[str]) -> LeftOut:
    is_folder = path.is_dir()
    count = sum(1 for _ in _files(path)) if is_folder else 1
    if is_hidden(path):
        return LeftOut("files", "hidden", count)
    if is_folder:
        return LeftOut("files", f"in {path.name}/", count)
    alone = suffixes[path.suffix] == 1
    return LeftOut("files", path.name if alone else f"{path.suffix} beside them", 1)


def merge_left_out(items: Iterable[LeftOut]) -> tuple[LeftOut, ...]:
    """Equal reasons added up, in the order of the first of each."""
    counts: dict[tuple[str, str], int] = {}
    for item in items:
        counts[item.what, item.why] = counts.get((item.what, item.why), 0) + item.count
    return tuple(LeftOut(what, why, count) for (what, why), count in counts.items() if count)


def is_odd(item: LeftOut) -> bool:
    """Whether samples may be meant by what is left out: no hidden files, and no papers."""
    return item.what == "files" and not item.why.lower().endswith(_PAPERS)


def left_out_sentence(items: Sequence[LeftOut]) -> str:
    """`left out 4 files: 3 hidden, 1 .heic`; of many reasons the largest."""
    parts = []
    for what in dict.fromkeys(item.what for item in items):
        ordered = sorted((i for i in items if i.what == what), key=lambda i: -i.count)
        named = [f"{item.count} {item.why}" for item in ordered[:_NAMED]]
        if len(ordered) > _NAMED:
            named.append(f"{sum(item.count for item in ordered[_NAMED:])} of other kinds")
        total = sum(item.count for item in ordered)
        parts.append(f"{total} {what if total > 1 else what.removesuffix('s')}: {', '.join(named)}")
    return f"left out {'; '.join(parts)}" if parts else "nothing left out"


def list_folder(folder: Path) -> list[Path]:
    """What lies in a folder, in order. Raises `DataError` when it cannot be listed."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {reason(error)}") from error


@dataclass(frozen=True)
class _File:
    """A file below a folder. `mode` None: it cannot be looked at; a folder's: a link to one that
    it lies in. `hidden`: it is, or a folder on the way to it."""

    path: Path
    mode: int | None
    hidden: bool


def _files(top: Path) -> Iterator[_File]:
    """Every file below a folder, in no order."""
    waiting: list[tuple[Path, tuple[tuple[int, int], ...], bool]] = [(top, (), is_hidden(top))]
    while waiting:
        path, above, hidden = waiting.pop()
        try:
            found = path.stat()
        except OSError:  # a broken link
            yield _File(path, None, hidden)
            continue
        identity = (found.st_dev, found.st_ino)
        if not stat.S_ISDIR(found.st_mode) or identity in above:
            yield _File(path, found.st_mode, hidden)
            continue
        if hidden and not os.access(path, os.R_OK | os.X_OK):
            yield _File(path, found.st_mode, hidden)  # `lost+found` is the system's alone
            continue
        inside = (*above, identity)
        waiting += [(child, inside, hidden or is_hidden(child)) for child in list_folder(path)]


def _why_not(found: _File, wanted: Callable[[Path], bool]) -> str | None:
    """Why a file is no sample; a broken link may be one, to be named when it is read."""
    if found.hidden:
        return "hidden"
    if found.mode is not None and not stat.S_ISREG(found.mode):
        return "a link to a folder above it" if stat.S_ISDIR(found.mode) else "no regular file"
    return None if wanted(found.path) else found.path.suffix or "without a suffix"


# The wall around other libraries, which raise anything and draw progress bars.
#
# Whatever one raises while it reads a sample is that sample's fault. What a damaged or malicious
# file may make a library raise is open: `struct.error`, `KeyError`, `RecursionError`,
# `OverflowError`, a warning turned into an error.


@contextlib.contextmanager
def fault_of(title: str) -> Iterator[None]:
    """Turns any error inside into a `DataError` of `title` and the reason, in one line.

    Lack of memory passes: it is the machine's.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(f"{title}: {reason(error)}") from error


@contextlib.contextmanager
def bars_on_terminals_only() -> Iterator[None]:
    """Within, what is written to stderr is dropped unless stderr is a terminal.

    Libraries draw progress bars there whether or not somebody looks. Exceptions still tell what
    went wrong. Not for code whose warnings a person needs.
    """
    if sys.stderr.isatty():
        yield
    else:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
