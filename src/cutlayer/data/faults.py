"""The wall around libraries: whatever one raises while it reads a sample is that sample's fault.

What a damaged or malicious file may make a library raise is open: `struct.error`, `KeyError`,
`RecursionError`, `OverflowError`, a warning turned into an error.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from cutlayer.errors import DataError

_MOST_LETTERS = 200


@contextmanager
def fault_of(title: str) -> Iterator[None]:
    """Turns any error inside into a `DataError` of `title` and the reason, in one line.

    Lack of memory passes: it is the machine's.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(f"{title}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What an error says, or what lies at the root of it, in one line that is not too long; its
    kind where it says nothing."""
    while error.__cause__ is not None:
        error = error.__cause__
    told = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError) and told.strip("'").isidentifier():
        told = f"{told} is unknown"
    return told if len(told) <= _MOST_LETTERS else told[: _MOST_LETTERS - 4] + " ..."
