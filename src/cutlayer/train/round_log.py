"""Logs whose lines are JSON objects with a `round` that never falls: `rounds.jsonl`, `trace.jsonl`.

Finds a round by halving the file, so that a log of millions of lines is never read as a whole.
Knows neither what else a line holds nor torch.
"""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


def json_text(value: Any, indent: int | None = None) -> str:
    """The value as JSON, which has no NaN and no infinity: null stands for them."""
    return json.dumps(_finite(value), allow_nan=False, indent=indent)


def lines_of_round(path: Path, number: int) -> Iterator[str]:
    """The lines of one round as text, and after them whatever is no line of a round.

    Raises OSError, UnicodeDecodeError.
    """
    with path.open("rb") as file:
        file.seek(_start(file, number))
        for line in file:
            if _round_of(line) in (number, math.inf):
                yield line.decode("utf-8")
            else:
                return


def rounds_of(path: Path) -> list[float]:
    """The round of every line; infinite for one that was cut short. Raises OSError."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        return [_round_of(line) for line in file]


def cut_after(path: Path, finished: int) -> None:
    """Drop the lines of rounds after `finished`, and a last line that was cut short.

    Raises OSError.
    """
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = _start(file, finished + 1)
        if end < file.seek(0, os.SEEK_END):
            file.truncate(end)
            os.fsync(file.fileno())


def _start(file: BinaryIO, number: int) -> int:
    """Where the first line of round `number` or a later one begins; the file's end if none does."""
    low, high = 0, file.seek(0, os.SEEK_END)
    while low < high:
        middle = (low + high) // 2
        begin = _line_at(file, middle)
        line = file.readline()
        if begin >= high or not line or _round_of(line) >= number:
            high = middle
        else:
            low = begin + len(line)
    return _line_at(file, low)


def _line_at(file: BinaryIO, place: int) -> int:
    """Move to the first line that begins at `place` or after it; where that is."""
    if place == 0:
        file.seek(0)
        return 0
    file.seek(place - 1)
    file.readline()
    return file.tell()


def _round_of(line: bytes) -> float:
    """The round that a line belongs to; infinite for a line that was cut short."""
    try:
        return int(json.loads(line)["round"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf


def _finite(value: Any) -> Any:
    """The value with None for every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
