"""A lab's folder, and those that labs which were killed have left.

Knows files and who is alive; no network.
"""

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from cutlayer.lab.names import lab_name, orphans


def processes() -> set[int]:
    """Who is alive on this machine; where nobody tells, this process alone is known to be."""
    root = Path("/proc")
    numbers = root.iterdir() if root.is_dir() else ()
    return {os.getpid(), *(int(path.name) for path in numbers if path.name.isdigit())}


@contextmanager
def lab_folder() -> Iterator[Path]:
    """A folder of this lab's own, for keys, samples and logs, that is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix=lab_name(os.getpid(), "")) as folder:
        yield Path(folder)


def delete_folders(root: Path, alive: Collection[int]) -> list[str]:
    """Delete the folders that labs which were killed have left in `root`; their names."""
    names = orphans((path.name for path in root.iterdir()), alive)
    for name in names:
        # another user's stays
        shutil.rmtree(root / name, ignore_errors=True)
    return [name for name in names if not (root / name).exists()]
