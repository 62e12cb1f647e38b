"""Names of what a lab makes outside its run, and which of them a lab that was killed has left.

Each has the process id of its lab: two labs do not get in each other's way.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LAB = "cutlayer-lab"
_NAME = re.compile(rf"{_LAB}-(\d+)-\w+")


def lab_name(owner: int, what: str) -> str:
    """The name of something that the lab in process `owner` makes."""
    return f"{_LAB}-{owner}-{what}"


def orphans(names: Iterable[str], alive: Collection[int]) -> list[str]:
    """Those that labs have made whose process is not among those alive."""
    found = ((name, _NAME.fullmatch(name)) for name in names)
    return [name for name, own in found if own is not None and int(own[1]) not in alive]


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
