"""Which number a device has in a run: its name is in its certificate, its number in every seed.

Knows names and a file; nothing of links.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import final

from cutlayer.errors import RunError
from cutlayer.train.files import write_json


@final
class Roster:
    """The devices of a run in the file at `path`: those of `pinned`, or the first `count` to come.

    Raises RunError for a file that cannot be read.
    """

    def __init__(self, path: Path, count: int, pinned: tuple[str, ...]) -> None:
        self._path = path
        self._count = count
        self._pinned = bool(pinned)
        self._names = list(pinned) if pinned else _read(path)

    def number(self, name: str) -> int | None:
        """The number of the device `name`, on disk before it is told; None: the run is without it.

        Raises RunError if the disk refuses.
        """
        if name in self._names:
            return self._names.index(name)
        if len(self._names) == self._count:
            return None
        write_json(self._path, [*self._names, name])
        self._names.append(name)
        return len(self._names) - 1

    def succeed(self, name: str, gone: Callable[[str], bool]) -> int | None:
        """The first number whose device is `gone`, and `name`'s from now on; None: there is none.

        Pinned numbers are not given to others. Raises RunError if the disk refuses.
        """
        number = next((n for n, own in enumerate(self._names) if gone(own)), None)
        if number is None or self._pinned:
            return None
        names = [*self._names[:number], name, *self._names[number + 1 :]]
        write_json(self._path, names)
        self._names = names
        return number

    def name(self, number: int) -> str | None:
        """Whose number it is; None while it is nobody's."""
        return self._names[number] if number < len(self._names) else None


def _read(path: Path) -> list[str]:
    if not path.exists():
        return []
    try:
        return [str(name) for name in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path} cannot be read: {error}; restore it from a copy") from error
