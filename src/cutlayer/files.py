"""Files and folders written so that a crash leaves the old one or the new one, whole and on disk;
files that are locks between processes; and what to tell a user where neither can be had.
"""

import errno
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cutlayer.errors import ConfigError, RunError, StorageError, UnavailableError, quoted

Found = TypeVar("Found")

PRIVATE = 0o600
_USUAL = 0o666
# descriptors that are all in use: others may be done with theirs soon
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_PAUSE_S, _LONGEST_WAIT_S = 0.2, 30.0
# what the system says of what may be otherwise in a minute
_PASSING = frozenset(
    (
        *_NO_DESCRIPTOR,
        *(errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT),
        *(errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.ENETUNREACH),
        *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT, errno.EHOSTUNREACH),
    )
)


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


def with_descriptor(
    do: Callable[[], Found],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Found:
    """What `do` gives, which opens a file: tried again for 30 s while descriptors have run out.

    Blocks meanwhile. Raises what `do` raises.
    """
    until_s = clock() + _LONGEST_WAIT_S
    while True:
        try:
            return do()
        except OSError as error:
            if error.errno not in _NO_DESCRIPTOR or clock() >= until_s:
                raise
        sleep(_PAUSE_S)


def sync_folder(folder: Path) -> None:
    """Flush a folder after a file was made or renamed in it: a file that is flushed may still be
    lost with its folder's entry for it."""
    handle = with_descriptor(lambda: os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, write: Callable[[Path], object], *, mode: int = _USUAL) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and rename it.

    `mode`: its permissions, less the umask, from its first byte on.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")

    def begin() -> None:
        temporary.unlink(missing_ok=True)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))

    try:
        with_descriptor(begin)
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
    with with_descriptor(lambda: path.open("rb")) as file:
        os.fsync(file.fileno())


def path_of(what: str, value: object) -> Path:
    """The path that a program gave for `what`. Raises ConfigError for another thing."""
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"{what} should be a path, not {quoted(value)}")
    path = Path(value)
    if "\0" in str(path):
        raise ConfigError(
            f"{what} should be a path, which has no zero bytes, not {quoted(str(path))}"
        )
    return path


# What a run writes, and what to tell a user where it cannot be written.


def json_text(value: Any, indent: int | None = None) -> str:
    """The value as JSON, which has no NaN and no infinity: null stands for them."""
    return json.dumps(_finite(value), allow_nan=False, indent=indent)


def _finite(value: Any) -> Any:
    """The value with None for every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


@dataclass(frozen=True)
class Remedy:
    """What to do about a file that cannot be written: once there is room, and where there is none
    to be had. Both end a message. `thing`: the parameter that gives the place."""

    room: str
    place: str
    thing: str | None = None


OF_A_RUN = Remedy("a run that had started can be resumed", "choose another output", "output")


def write_atomically(path: Path, write: Callable[[Path], None], remedy: Remedy = OF_A_RUN) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and rename it.

    Raises StorageError, naming the file, the reason and what to do, if the disk is full or not
    writable; `path` is then as it was.
    """
    from safetensors import SafetensorError

    try:
        write_whole(path, write)
    except (OSError, SafetensorError) as error:
        raise storage_error(path, error, remedy) from error


def write_folder_atomically(
    path: Path, write: Callable[[Path], None], remedy: Remedy = OF_A_RUN
) -> None:
    """Let `write` fill a temporary folder beside `path`, flush all of it to disk, and put it in the
    place of `path`: a crash leaves the old folder or the new one, whole, there or under the name
    `.NAME.old` beside it.

    Raises StorageError as `write_atomically` does.
    """
    from safetensors import SafetensorError

    try:
        write_folder_whole(path, write)
    except (OSError, SafetensorError) as error:
        raise storage_error(path, error, remedy) from error


def write_text(path: Path, text: str) -> None:
    """`write_atomically` for a text."""
    write_atomically(path, lambda temporary: _write(temporary, text))


def write_json(path: Path, value: Any) -> None:
    """`write_atomically` for a value as JSON."""
    write_text(path, json_text(value, indent=1) + "\n")


def storage_error(path: Path, error: Exception, remedy: Remedy = OF_A_RUN) -> StorageError:
    """The error for a file that cannot be written: which, why, and what to do.

    `error`: the system's, or that of safetensors.
    """
    why = (isinstance(error, OSError) and error.strerror) or str(error)
    full = _number(error) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    what = f"free some space; {remedy.room}" if full else remedy.place
    thing = None if full else remedy.thing
    return StorageError(f"cannot write {path}: {why}; {what}", thing=thing)


def may_pass(error: BaseException | None) -> bool:
    """Whether what was refused may be granted another time with nothing changed: a server that was
    away, a full disk, a port in use. All else is somebody's to correct first."""
    while error is not None:
        if isinstance(error, UnavailableError) or _number(error) in _PASSING:
            return True
        error = error.__cause__
    return False


def _number(error: BaseException) -> int | None:
    """The system's number of an error."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))  # it is in the text alone
    return int(found[1]) if found else None


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


# Locks between processes of one machine: a file that one of them at a time holds.
#
# Knows a path. The system lets go when the process ends, however it ends.


@contextmanager
def alone(path: Path, taken: str) -> Iterator[None]:
    """Hold the lock `path`. Raises RunError: `taken` if somebody holds it; the disk refuses."""
    with _held(path, taken, wait=False):
        yield


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Wait for the lock `path`, and hold it. Raises RunError: the disk refuses."""
    with _held(path, "", wait=True):
        yield


@contextmanager
def _held(path: Path, taken: str, *, wait: bool) -> Iterator[None]:
    with ExitStack() as stack:
        # an error of what is done while it is held is none of the lock's
        try:
            stack.enter_context(locked(path, wait=wait))
        except BlockingIOError:
            raise RunError(taken) from None
        except OSError as error:  # no such folder, or a file system without locks
            raise storage_error(path, error) from error
        yield
