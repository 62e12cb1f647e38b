"""Names of what a lab makes outside its run, and which of them belong to a lab that is gone.

Each has the process id of its lab: two labs do not get in each other's way.
"""

import re
from collections.abc import Callable, Iterable

_LAB = "cutlayer-lab"
_NAME = re.compile(rf"{_LAB}-(\d+)-\w+")


def lab_name(owner: int, what: str) -> str:
    """The name of something that the lab in process `owner` makes."""
    return f"{_LAB}-{owner}-{what}"


def orphans(names: Iterable[str], alive: Callable[[int], bool]) -> list[str]:
    """Those that labs have made whose process is not `alive`."""
    found = ((name, _NAME.fullmatch(name)) for name in names)
    return [name for name, own in found if own is not None and not alive(int(own[1]))]
