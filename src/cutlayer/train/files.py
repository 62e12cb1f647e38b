"""Writing files so that a crash leaves the old file or the new one, never half of one."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from cutlayer.errors import RunError
from cutlayer.train.sync import sync_folder


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and rename it.

    Raises RunError, naming the file and the reason, if the disk is full or not writable; `path`
    is then as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        raise storage_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_folder_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary folder beside `path`, then put it in the place of `path`.

    Raises RunError as `write_atomically` does.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        write(temporary)
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
        sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        raise storage_error(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """`write_atomically` for a text."""
    write_atomically(path, lambda temporary: _write(temporary, text))


def write_json(path: Path, value: Any) -> None:
    """`write_atomically` for a value as JSON."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def storage_error(path: Path, error: OSError | SafetensorError) -> RunError:
    """The error for a file that cannot be written: which, why, and what to do."""
    if isinstance(error, SafetensorError):  # it carries the system's reason as text
        return RunError(f"cannot write {path}: {error}; free some space, then use --resume")
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    mend = (
        "free some space; a run that had started goes on with --resume"
        if full
        else "choose another place with --output"
    )
    return RunError(f"cannot write {path}: {error.strerror or error}; {mend}")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
