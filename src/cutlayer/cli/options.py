"""Types of options that several commands take."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar, final

from cutlayer.errors import ConfigError, quoted
from cutlayer.logs import Heartbeat, so_far

Number = TypeVar("Number", int, float)


def whole_number(text: str) -> int:
    """A whole number from 1 on."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a whole number from 1 on")
    return number


def numbers_of(number: Callable[[str], Number]) -> Callable[[str], tuple[Number, ...]]:
    """Numbers of one kind with commas between."""

    def numbers(text: str) -> tuple[Number, ...]:
        try:
            return tuple(number(part) for part in text.split(","))
        except ValueError:
            what = "whole numbers" if number is int else "numbers"
            raise argparse.ArgumentTypeError(
                f"{quoted(text)} is not {what} with commas between"
            ) from None

    return numbers


# Addresses as arguments: HOST:PORT.


def host_and_port(text: str) -> tuple[str, int]:
    """The two parts of `HOST:PORT`; IPv6 in brackets."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not HOST:PORT with a port up to 65535, such as 192.168.1.10:7700"
        )
    return host, int(port)


# What a command does while torch and transformers are imported, which takes seconds, on a busy
# machine minutes. Imports neither.


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


# Log lines of the network commands: one JSON object a line on standard error.


@final
class JsonLines(logging.Formatter):
    """Time (UTC), level, where it was said, and what."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_lines(quiet: bool) -> None:
    """From here on, what cutlayer logs goes to standard error so; `quiet`: warnings alone."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("cutlayer")
    logger.handlers = [handler]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
