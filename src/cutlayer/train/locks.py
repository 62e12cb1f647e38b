"""Locks between processes of one machine: a file that one of them at a time holds.

Knows a path. The system lets go when the process ends, however it ends.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cutlayer.errors import RunError
from cutlayer.files import locked
from cutlayer.train.files import storage_error


@contextmanager
def alone(path: Path, taken: str) -> Iterator[None]:
    """Hold the lock `path`. Raises RunError: `taken` if somebody holds it; the disk refuses."""
    with _held(path, taken, wait=False):
        yield


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Wait for the lock `path`, and hold it. Raises RunError: the disk refuses."""
    with _held(path, "", wait=True):
        yield


@contextmanager
def _held(path: Path, taken: str, *, wait: bool) -> Iterator[None]:
    with ExitStack() as stack:
        # an error of what is done while it is held is none of the lock's
        try:
            stack.enter_context(locked(path, wait=wait))
        except BlockingIOError:
            raise RunError(taken) from None
        except OSError as error:  # no such folder, or a file system without locks
            raise storage_error(path, error) from error
        yield
