"""The one error tree, and how a message shows a value and hints at a known word."""

import difflib
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# The one error tree. A message says what was wrong, the value, and what to do.
#
# Knows nothing of where an error is raised. The command line turns each of these into one line and
# exit code 2; anything else that escapes is a bug.


class CutlayerError(Exception):
    """Any mistake that a user of cutlayer can mend."""


class ConfigError(CutlayerError):
    """A configuration value, key or file that cannot be used."""


class DataError(CutlayerError):
    """A data set, sample or partition that cannot be used."""


class AssetError(CutlayerError):
    """A model or data set that cannot be found, fetched, verified or converted."""


class ModelError(CutlayerError):
    """A pretrained model that cannot be split or adapted as asked."""


class UnsupportedModelError(ModelError):
    """An architecture that cutlayer cannot split; the message says why."""


class PacketError(CutlayerError):
    """Bytes that are not a valid packet of the expected shape."""


class FrameError(CutlayerError):
    """Bytes or a message that a peer of the network runtime must not send."""


class RunError(CutlayerError):
    """A run directory that cannot be written, read or resumed."""


class StorageError(RunError):
    """A file that cannot be written: a full disk, a folder of somebody else's."""


class IdentityError(CutlayerError):
    """Keys, a name, an invitation or a certificate that cannot be used; quotes no secret."""


@contextmanager
def needing(what: str, extras: str) -> Iterator[None]:
    """Around imports for `what`: raises ConfigError for a package that is not there, with the
    `extras` that bring it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(f"{what} needs {error.name}: pip install 'cutlayer[{extras}]'") from error


# Hints for words that nobody knows, and values as a message shows them: never longer than 80.


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
