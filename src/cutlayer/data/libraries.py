"""The wall around other libraries, which raise anything and draw progress bars.

Whatever one raises while it reads a sample is that sample's fault. What a damaged or malicious file
may make a library raise is open: `struct.error`, `KeyError`, `RecursionError`, `OverflowError`, a
warning turned into an error.
"""

import contextlib
import io
import sys
from collections.abc import Iterator

from cutlayer.errors import DataError, reason


@contextlib.contextmanager
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


@contextlib.contextmanager
def bars_on_terminals_only() -> Iterator[None]:
    """Within, what is written to stderr is dropped unless stderr is a terminal.

    Libraries draw progress bars there whether or not somebody looks. Exceptions still tell what
    went wrong. Not for code whose warnings a person needs.
    """
    if sys.stderr.isatty():
        yield
    else:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
