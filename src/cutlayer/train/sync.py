"""Names on disk: a file that is flushed may still be lost with its folder's entry for it."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Flush a folder after a file was made or renamed in it. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
