"""What several commands take and show: arguments, their types, a line of progress, log lines."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar, final

from rich.console import Console

from cutlayer.errors import ConfigError, quoted
from cutlayer.logs import lines_to, unheard
from cutlayer.net.wire.link import address_of

Number = TypeVar("Number", int, float)


def add_config(parser: argparse.ArgumentParser, default: str = "the built-in job") -> None:
    """The configuration file, before all settings and options."""
    parser.usage = "%(prog)s [CONFIG.yaml] [--SECTION.KEY VALUE ...] [options]"
    parser.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG.yaml", help=f"default: {default}"
    )


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


@contextmanager
def status_line() -> Iterator[None]:
    """What is logged, as one line that changes, on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        with unheard():
            yield
        return
    with console.status("") as status, lines_to(status.update):
        yield


@final
class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, where it was said, and what."""

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
    """From here on, what cutlayer logs goes to standard error as JSON; `quiet`: warnings alone."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("cutlayer")
    logger.handlers = [handler]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
