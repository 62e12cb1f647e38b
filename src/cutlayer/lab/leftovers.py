"""A lab's folder, and those that labs which were killed have left.

Knows files and who is alive; no network.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cutlayer.lab.names import lab_name, orphans


def another(process: int) -> bool:
    """Whether that is another process, and alive: what has this one's number already, another one
    with it has left."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def lab_folder() -> Iterator[Path]:
    """A folder of this lab's own, for keys, samples and logs, that is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix=lab_name(os.getpid(), "")) as folder:
        yield Path(folder)


def delete_folders(root: Path, alive: Callable[[int], bool]) -> list[str]:
    """Delete the folders that labs which were killed have left in `root`; their names."""
    names = orphans((path.name for path in root.iterdir()), alive)
    for name in names:
        # another user's stays
        shutil.rmtree(root / name, ignore_errors=True)
    return [name for name in names if not (root / name).exists()]
