"""Other libraries draw progress bars on stderr whether or not somebody looks; here they ask."""

import contextlib
import io
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def bars_on_terminals_only() -> Iterator[None]:
    """Within, what is written to stderr is dropped unless stderr is a terminal.

    Exceptions still tell what went wrong. Not for code whose warnings a person needs.
    """
    if sys.stderr.isatty():
        yield
    else:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
