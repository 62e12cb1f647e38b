"""What a command does while torch and transformers are imported, which takes seconds, on a busy
machine minutes. Imports neither."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cutlayer.errors import ConfigError
from cutlayer.train.heartbeat import Heartbeat, so_far


@contextmanager
def loading(command: str, extras: str, say: Callable[[str], object]) -> Iterator[None]:
    """Around the imports of a command: says now and then that they go on.

    Raises ConfigError for a package that is not there, with the `extras` that bring it.
    """
    try:
        with Heartbeat(so_far("loading torch and transformers"), say):
            yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"`cutlayer {command}` needs {error.name}: pip install 'cutlayer[{extras}]'"
        ) from error


def teller(quiet: bool) -> Callable[[str], None]:
    """Lines on standard error; `quiet`: nowhere."""
    return _nowhere if quiet else _standard_error


def _standard_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _nowhere(line: str) -> None:
    """Nothing."""
