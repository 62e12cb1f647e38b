"""What every figure that is only computed must write."""

import csv
from collections.abc import Callable
from pathlib import Path

from reproduction.catalogue import Made, Options

OPTIONS = Options(data="none", model="none", cut=1, rounds=None, seeds=1, quick=True)
Make = Callable[[Options, Path, Callable[[str], None]], Made]


def made_twice(make: Make, folder: Path, name: str) -> tuple[Made, list[dict[str, str]]]:
    """Make a figure two times: the same bytes; and the rows of its table."""
    one, other = (make(OPTIONS, folder / place) for place in ("one", "other"))
    names = [f"{name}.csv", f"{name}-claims.csv", f"{name}.png", f"{name}.svg"]
    assert [path.name for path in one.files] == names
    assert [path.read_bytes() for path in one.files] == [path.read_bytes() for path in other.files]
    with one.files[0].open(encoding="utf-8") as file:
        return one, list(csv.DictReader(file))
