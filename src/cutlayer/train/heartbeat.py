"""A line now and then from a thread of its own, so that a log is never silent for minutes.

Knows neither what goes on nor who reads it.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import final

from cutlayer.units import format_seconds

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


def so_far(what: str) -> Callable[[], str]:
    """`getting ready, 50.1 s so far`, from now on."""
    start_s = time.monotonic()
    return lambda: f"{what}, {format_seconds(time.monotonic() - start_s)} so far"
