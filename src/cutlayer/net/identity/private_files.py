"""Folders and files that only their owner may read.

Knows permissions and how to write so that a crash leaves the old file or the new one; not what is
in them.
"""

import os
import stat
from pathlib import Path

from cutlayer.errors import IdentityError
from cutlayer.files import PRIVATE, sync_folder, write_whole

_FOLDER_MODE = 0o700
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private_folder(folder: Path) -> None:
    """Make `folder` (and its parents), for its owner alone.

    Raises IdentityError if it exists and is not empty, OSError if the disk refuses.
    """
    folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise IdentityError(f"{folder} is not empty, and no key is ever overwritten; name another")
    folder.chmod(_FOLDER_MODE)


def write_private(path: Path, content: bytes) -> None:
    """A new file, readable by its owner from its first byte on, whole or not at all.

    Raises OSError if it exists or the disk refuses.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(handle)
    except BaseException:
        path.unlink()
        raise
    sync_folder(path.parent)


def replace_private(path: Path, content: bytes) -> None:
    """`write_private` in the place of the file that is there."""
    write_whole(path, lambda new: new.write_bytes(content), mode=PRIVATE)


def read_private(path: Path, if_missing: str) -> bytes:
    """The content of a file that its owner alone may read.

    Raises IdentityError if it is missing, with what to do then, or others may read it.
    """
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise IdentityError(f"{path}: missing; {if_missing}") from None
    if mode & _OTHERS:
        raise IdentityError(f"{path}: others may read it (mode {mode & 0o777:o}); chmod 600 it")
    return content
