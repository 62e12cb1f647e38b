"""Files that a command writes: whether they can be, before it works, and all of them or none.

Imports no torch.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cutlayer.errors import RunError


def check_folder(path: Path) -> None:
    """Raises RunError if the folder `path` neither is nor can be made, or takes no files.

    Leaves nothing behind.
    """
    there = path.absolute()
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".cutlayer-"):
            pass
    except OSError as error:
        raise _cannot_write(path, error) from error


def check_file(path: Path) -> None:
    """The same for a file and its folder."""
    if path.is_dir():
        raise RunError(f"--output {path} is a directory: name a file in it")
    check_folder(path.parent)


def write_together(folder: Path, texts: Mapping[str, str | None]) -> None:
    """Write these files, by name, and delete those that are None: each whole, in one go at the end.

    Raises RunError; what could not be written is then as it was.
    """
    new = {name: folder / f".{name}.{os.getpid()}" for name, text in texts.items() if text}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in new.items():
            path.write_text(texts[name] or "", encoding="utf-8")
        for name in texts.keys() - new.keys():
            (folder / name).unlink(missing_ok=True)
        for name, path in new.items():
            path.replace(folder / name)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        for path in new.values():
            path.unlink(missing_ok=True)


def _cannot_write(path: Path, error: OSError) -> RunError:
    why = error.strerror or str(error)
    return RunError(f"cannot write {path}: {why}; choose another place with --output")
