"""Types of options that several commands take."""

import argparse
import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar, final

from cutlayer.errors import ConfigError, quoted
from cutlayer.net.wire.link import address_of

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
    try:
        return address_of(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def address(text: str) -> str:
    """`HOST:PORT` as it is, if it is one."""
    host_and_port(text)
    return text


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
