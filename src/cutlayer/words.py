"""Hints for words that nobody knows, and values as a message shows them: never longer than 80."""

import difflib
import reprlib
from collections.abc import Sequence
from typing import Any

_LETTERS = 80


def nearest(word: str, known: Sequence[str]) -> str:
    """The end of an error about an unknown word: the nearest known one, else all of them."""
    close = difflib.get_close_matches(cut(word), known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def shown(value: Any) -> str:
    """A value as a configuration has it: a text without quotes, null, a list."""
    if isinstance(value, str):
        return cut(value)
    return "null" if value is None else quoted(list(value) if isinstance(value, tuple) else value)


def quoted(value: Any) -> str:
    """The same as Python prints it, a text in quotes. Of what is deep or long, its beginning."""
    if isinstance(value, str):
        return repr(cut(value))
    if isinstance(value, int) and abs(value) >= 10**_LETTERS:
        return f"a number of more than {_LETTERS} digits"  # of thousands, Python prints none
    return cut(_SHORT.repr(value))


def cut(text: str, most: int = _LETTERS) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _LETTERS
