"""Text files as lines: UTF-8, and what is not is told by its line.

A byte that is not UTF-8 becomes a lone surrogate (Python's `surrogateescape`), so that one bad
line costs one sample and not the file; `undecoded` finds it again.
"""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from cutlayer.errors import DataError

# UTF-32's mark begins with UTF-16's: the longer ones first
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_ESCAPED = re.compile("[\udc80-\udcff]")
_LINE = re.compile("[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_PROBE_BYTES = 4096
_MOST_ZEROS = 0.1  # of the first bytes, in a file that is text


def read_text(path: Path) -> str:
    """All of a file, line ends as they are, without the mark of UTF-8.

    Raises `DataError` when it cannot be opened, is UTF-16 or UTF-32, or is no text.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for mark, name in _OTHER_MARKS.items():
        if raw.startswith(mark):
            raise DataError(f"{path} cannot be read as UTF-8: it is {name}. Save it as UTF-8")
    probe = raw[:_PROBE_BYTES]
    if probe.count(0) > _MOST_ZEROS * len(probe):
        raise DataError(
            f"{path} cannot be read as UTF-8: it is full of zero bytes, so it is UTF-16 or no text"
        )
    return raw.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="surrogateescape")


def lines_of(text: str) -> Iterator[str]:
    """The lines of a text with their ends, as Python's text files cut it: at LF, CR LF and CR."""
    for found in _LINE.finditer(text):
        yield found.group()


def undecoded(text: str) -> str | None:
    """Why a piece of `read_text` is not UTF-8, if it is not."""
    found = _ESCAPED.search(text)
    if found is None:
        return None
    byte = ord(found.group()) - 0xDC00
    return (
        f"byte 0x{byte:02x} is not UTF-8 (Latin-1 or Windows-1252, perhaps): save the file as UTF-8"
    )
