"""Class names as names of folders: no folder's name has a `/`, and some class names do.

A folder `T-shirt_top` or `T-shirt%2Ftop` is of the class `T-shirt/top`. Knows names alone.
"""

from collections.abc import Sequence
from urllib.parse import quote, unquote

from cutlayer.errors import DataError


def folder_name(name: str, names: Sequence[str]) -> str:
    """The folder for the class `name` of `names`: with `_` for `/`, or in percent signs where
    that would be another class's too, or be hidden."""
    plain = name.replace("/", "_")
    alike = [other for other in names if plain in (other, other.replace("/", "_"))]
    if alike == [name] and not plain.startswith(".") and unquote(plain) == plain:
        return plain
    return quote(name, safe=" ").replace(".", "%2E")


def class_of(folder: str, names: Sequence[str]) -> str | None:
    """The class of `names` that a folder or label is of; None if of none.

    The name itself comes first. Raises `DataError` where `_` may stand for two of them.
    """
    for spelt in (folder, unquote(folder)):
        if spelt in names:
            return spelt
    alike = [name for name in names if name.replace("/", "_") == folder]
    if len(alike) > 1:
        raise DataError(
            f"{folder!r} may be {' or '.join(repr(name) for name in alike)}: write %2F where a"
            " slash is meant"
        )
    return alike[0] if alike else None
