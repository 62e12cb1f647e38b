"""Locks between processes of one machine: a file that one of them at a time holds.

Knows a path. The system lets go when the process ends, however it ends; the file stays.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cutlayer.errors import RunError
from cutlayer.train.files import storage_error

_MODE = 0o600


@contextmanager
def alone(path: Path, taken: str) -> Iterator[None]:
    """Hold the lock `path`. Raises RunError: `taken` if somebody holds it; the disk refuses."""
    with _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB, taken):
        yield


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Wait for the lock `path`, and hold it. Raises RunError: the disk refuses."""
    with _locked(path, fcntl.LOCK_EX, ""):
        yield


@contextmanager
def _locked(path: Path, how: int, taken: str) -> Iterator[None]:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, _MODE)
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        _lock(handle, how, path, taken)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, how: int, path: Path, taken: str) -> None:
    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        raise RunError(taken) from None
    except OSError as error:  # a file system without locks
        raise storage_error(path, error) from error
