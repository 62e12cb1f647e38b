"""Signals that ask a lab to stop: they end what may be ended, and never what cleans up.

Knows signals, and nothing of a lab.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import final

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@final
class Stop:
    """As a context: hears SIGINT, SIGTERM and SIGHUP, unless they are ignored already.

    To be entered in the main thread, before all that has to be cleaned up.
    """

    def __init__(self) -> None:
        self._heard = False
        self._heeded = False
        self._before = [
            (one, handler)
            for one in _SIGNALS
            # who started this may have had reason to ignore one
            if (handler := signal.getsignal(one)) is not signal.SIG_IGN
        ]

    def __enter__(self) -> "Stop":
        for number, _ in self._before:
            signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Within this a signal raises KeyboardInterrupt, once; one that came before it, too."""
        self._heeded = True
        try:
            if self._heard:
                raise KeyboardInterrupt
            yield
        finally:
            self._heeded = False

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard = True
        if self._heeded:
            self._heeded = False
            raise KeyboardInterrupt
