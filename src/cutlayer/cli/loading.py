"""What a command does while torch and transformers are imported, which takes seconds, on a busy
machine minutes. Imports neither."""

from collections.abc import Iterator
from contextlib import contextmanager

from cutlayer.errors import ConfigError
from cutlayer.train.heartbeat import Heartbeat, so_far


@contextmanager
def loading(command: str, extras: str) -> Iterator[None]:
    """Around the imports of a command: says now and then that they go on.

    Raises ConfigError for a package that is not there, with the `extras` that bring it.
    """
    try:
        with Heartbeat(so_far("loading torch and transformers")):
            yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"`cutlayer {command}` needs {error.name}: pip install 'cutlayer[{extras}]'"
        ) from error
