"""Files and folders written so that a crash leaves the old one or the new one, whole and on disk;
and files that are locks between processes.

Raises what the system raises, but for what is no path; what to tell a user of it is the caller's.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cutlayer.errors import ConfigError, quoted

PRIVATE = 0o600
_USUAL = 0o666


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path`, which one process at a time can; the system lets go when it ends,
    however it ends. Raises BlockingIOError if somebody holds it and we do not `wait`."""
    # takes as long to import as all the rest of a command's first lines
    from filelock import FileLock, Timeout

    path.touch(mode=PRIVATE)  # else a folder that is not there would be made
    lock = FileLock(path, mode=PRIVATE)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise BlockingIOError(errno.EAGAIN, "held by another process", str(path)) from error
    try:
        yield
    finally:
        lock.release()


def sync_folder(folder: Path) -> None:
    """Flush a folder after a file was made or renamed in it: a file that is flushed may still be
    lost with its folder's entry for it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, write: Callable[[Path], object], *, mode: int = _USUAL) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and rename it.

    `mode`: its permissions, less the umask, from its first byte on.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        write(temporary)
        _sync_file(temporary)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_folder_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary folder beside `path`, flush all of it to disk, and put it in the
    place of `path`: the old folder is there until then, or under the name `.NAME.old` beside it."""
    temporary, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        write(temporary)
        sync_below(temporary)
        replace_folder(path, temporary, old)
        sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(path: Path, new: Path, old: Path) -> None:
    """Rename `new` to `path`, and what was there to `old`, since a folder with something in it
    cannot be renamed over; undone if it fails."""
    if not path.exists():
        new.rename(path)
        return
    shutil.rmtree(old, ignore_errors=True)
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise


def sync_below(folder: Path) -> None:
    """Flush the files of a folder and the folders in it, and it last."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync_file(Path(place) / name)
        sync_folder(Path(place))


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def path_of(what: str, value: object) -> Path:
    """The path that a program gave for `what`. Raises ConfigError for another thing."""
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"{what} should be a path, not {quoted(value)}")
    return Path(value)
