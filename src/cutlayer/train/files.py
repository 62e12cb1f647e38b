"""Writing files so that a crash leaves the old file or the new one, never half of one."""

import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cutlayer.errors import RunError


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and rename it.

    Raises RunError, naming the file and the reason, if the disk is full or not writable; `path`
    is then as it was.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as error:
        raise storage_error(path, error) from error
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_atomically` for a text."""
    write_atomically(path, lambda temporary: _write(temporary, text))


def write_json(path: Path, value: Any) -> None:
    """`write_atomically` for a value as JSON."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def storage_error(path: Path, error: OSError) -> RunError:
    """The error for a file that cannot be written: which, why, and what to do."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    mend = (
        "free some space; a run that had started goes on with --resume"
        if full
        else "choose another place with --output"
    )
    return RunError(f"cannot write {path}: {error.strerror or error}; {mend}")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
