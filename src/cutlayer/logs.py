"""Who hears what cutlayer logs, for as long as a context lasts.

Modules log to `logging.getLogger(__name__)`, and nobody hears it unless a program asks for it.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import final

from cutlayer.errors import needing
from cutlayer.units import format_seconds

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


# A line now and then from a thread of its own, so that a log is never silent for minutes.
#
# Knows neither what goes on nor who reads it.


_LOG = logging.getLogger(__name__)

# less than the 30 s that are promised: the machine may be busy
EVERY_S = 25.0


@final
class Heartbeat:
    """Logs `text()` every `every_s` seconds for as long as it is a context."""

    def __init__(self, text: Callable[[], str], every_s: float = EVERY_S) -> None:
        self._text = text
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(self._every_s):
            _LOG.info("%s", self._text())


def so_far(what: str, clock: Callable[[], float] = time.monotonic) -> Callable[[], str]:
    """`getting ready, 50.1 s so far`, from now on."""
    start_s = clock()
    return lambda: f"{what}, {format_seconds(clock() - start_s)} so far"


@contextmanager
def loading(what: str, extras: str) -> Iterator[None]:
    """Around imports that take seconds, on a busy machine minutes: says now and then that they go
    on.

    Raises ConfigError for a package that is not there, with the `extras` that bring it.
    """
    with needing(what, extras), Heartbeat(so_far("loading torch and transformers")):
        yield
