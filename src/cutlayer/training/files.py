"""Writing a run's files whole, and what to tell a user where they cannot be written."""

import errno
import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from cutlayer.errors import RunError, StorageError
from cutlayer.files import locked, write_folder_whole, write_whole


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
class Mend:
    """What to do about a file that cannot be written: once there is room, and where there is none
    to be had. Both end a message."""

    room: str
    place: str


OF_A_RUN = Mend(
    "a run that had started is resumed with --resume", "choose another place with --output"
)


def write_atomically(path: Path, write: Callable[[Path], None], mend: Mend = OF_A_RUN) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and rename it.

    Raises StorageError, naming the file, the reason and what mends it, if the disk is full or not
    writable; `path` is then as it was.
    """
    try:
        write_whole(path, write)
    except (OSError, SafetensorError) as error:
        raise storage_error(path, error, mend) from error


def write_folder_atomically(
    path: Path, write: Callable[[Path], None], mend: Mend = OF_A_RUN
) -> None:
    """Let `write` fill a temporary folder beside `path`, flush all of it to disk, and put it in the
    place of `path`: a crash leaves the old folder or the new one, whole, there or under the name
    `.NAME.old` beside it.

    Raises StorageError as `write_atomically` does.
    """
    try:
        write_folder_whole(path, write)
    except (OSError, SafetensorError) as error:
        raise storage_error(path, error, mend) from error


def write_text(path: Path, text: str) -> None:
    """`write_atomically` for a text."""
    write_atomically(path, lambda temporary: _write(temporary, text))


def write_json(path: Path, value: Any) -> None:
    """`write_atomically` for a value as JSON."""
    write_text(path, json_text(value, indent=1) + "\n")


def storage_error(
    path: Path, error: OSError | SafetensorError, mend: Mend = OF_A_RUN
) -> StorageError:
    """The error for a file that cannot be written: which, why, and what to do."""
    why = str(error) if isinstance(error, SafetensorError) else error.strerror or str(error)
    full = _number(error) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    what = f"free some space; {mend.room}" if full else mend.place
    return StorageError(f"cannot write {path}: {why}; {what}")


def _number(error: OSError | SafetensorError) -> int | None:
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
