"""The one error tree, and how a message shows values, other errors, and hints at a known word.

A message says what was wrong, the value, and what to do. The command line turns each of these
errors into one line and exit code 2, or 75 for what may pass by itself (`files.may_pass`); anything
else that escapes is a bug. Knows nothing of where an error is raised.
"""

import difflib
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_LETTERS = 80  # of a value in a message
_REASON_LETTERS = 200
_MOST_NAMES = 10
_KINDS = {
    "bool": "true or false",
    "int": "a number",
    "float": "a number",
    "str": "a text",
    "list": "a list",
    "tuple": "a list",
    "ndarray": "a list",
    "dict": "an object",
    "bytes": "bytes",
    "NoneType": "null",
}


class CutlayerError(Exception):
    """Any mistake that a user of cutlayer can correct.

    `thing`: what that is done with, by the parameter's name (`output`): a message speaks to
    programs too, and the command line adds the option of that name.
    """

    def __init__(self, message: object = "", *, thing: str | None = None) -> None:
        super().__init__(message)
        self.thing = thing


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


class UnavailableError(RunError):
    """What may pass by itself: a server that is away, devices that have not come."""


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


@contextmanager
def others_code(what: object, method: str) -> Iterator[None]:
    """Around a call of a method that another package may have written: raises ConfigError, naming
    it, for whatever it raises but our own errors. Of a class of cutlayer's, that would be a bug,
    and stays what it is."""
    try:
        yield
    except CutlayerError:
        raise
    except Exception as error:
        kind = type(what)
        if kind.__module__.partition(".")[0] == __name__.partition(".")[0]:
            raise
        raise ConfigError(
            f"{kind.__module__}:{kind.__qualname__}: {method} failed: {raised(error)}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was asked for that is not there; torch's own kinds are RuntimeErrors, told by
    their words."""
    words = str(error)
    told = "out of memory" in words or "allocate memory" in words
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and told)


def raised(error: Exception) -> str:
    """What others' code raised, its kind first, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


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


def type_in_words(value: object) -> str:
    """What a value is, in a reader's words: `a list`, `a number`."""
    return _KINDS.get(type(value).__name__, f"a {type(value).__name__}")


def column_listing(names: Sequence[str]) -> str:
    """Names of columns as they stand in a message: the first ten, each cut and in one line."""
    shown = [
        name if name.isprintable() and len(name) <= _LETTERS else quoted(name)
        for name in names[:_MOST_NAMES]
    ]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(shown) + more


def reason(error: BaseException) -> str:
    """What an error says, or what lies at the root of it, in one line that is not too long; its
    kind where it says nothing."""
    while error.__cause__ is not None:
        error = error.__cause__
    # the system's whole text has a number, and the path again
    system = error.strerror if isinstance(error, OSError) else None
    told = " ".join((system or str(error)).split()) or type(error).__name__
    if isinstance(error, KeyError) and told.strip("'").isidentifier():
        told = f"{told} is unknown"
    return told if len(told) <= _REASON_LETTERS else told[: _REASON_LETTERS - 4] + " ..."


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _LETTERS


def brief_error(error: Exception) -> str:
    """One of ours as it is; a library's in a line."""
    if isinstance(error, CutlayerError):
        return str(error)
    return f"{type(error).__name__}: {cut(reason(error))}"
