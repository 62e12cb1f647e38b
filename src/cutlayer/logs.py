"""Who hears what cutlayer logs, for as long as a context lasts.

Modules log to `logging.getLogger(__name__)`, and nobody hears it unless a program asks for it.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import final

_ROOT = logging.getLogger("cutlayer")


@final
class Plain(logging.Formatter):
    """The bare line; before a warning's the word."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """One line."""
        return f"{'warning: ' if record.levelno >= logging.WARNING else ''}{record.message}"


@final
class _To(logging.Handler):
    def __init__(self, take: Callable[[logging.LogRecord], object]) -> None:
        super().__init__()
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        self._take(record)


@contextmanager
def records_to(
    take: Callable[[logging.LogRecord], object], *, quiet: bool = False
) -> Iterator[None]:
    """What is logged goes to `take` alone; `quiet`: warnings alone."""
    before = _ROOT.handlers, _ROOT.level
    _ROOT.handlers = [_To(take)]
    _ROOT.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        _ROOT.handlers = before[0]
        _ROOT.setLevel(before[1])


@contextmanager
def lines_to(show: Callable[[str], object], *, quiet: bool = False) -> Iterator[None]:
    """As `records_to`, as the lines that a person reads."""
    plain = Plain()
    with records_to(lambda record: show(plain.format(record)), quiet=quiet):
        yield


@contextmanager
def heard_through(keep: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    """Whoever hears what is logged hears only what `keep` is true of; it may change it."""
    handlers = tuple(_ROOT.handlers)
    for handler in handlers:
        handler.addFilter(keep)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(keep)


@contextmanager
def unheard() -> Iterator[None]:
    """Nothing that is logged is heard: there is nothing new in it."""
    with heard_through(lambda _: False):
        yield
