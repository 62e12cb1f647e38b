"""The trainings that have ended, a JSON line each: what a profile is made of, and resumed from.

Knows one file. Only one process writes it.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cutlayer.errors import RunError
from cutlayer.train.files import storage_error

# codec, settings, seed
Key = tuple[str, tuple[tuple[str, float], ...], int]


@dataclass(frozen=True)
class Line:
    """One training of the job that `job` is the fingerprint of.

    `accuracy` (a share of the test split) is what the last finished round left: of fewer `rounds`
    than the job has if the training `diverged`, of none the accuracy before training. Bits are per
    value of activations (up) and gradients (down) over those rounds, None if there is none; the
    `same_symbols` ones are of the codec that would have sent the same in other bytes, if any.
    """

    job: str
    seed: int
    codec: str
    settings: Mapping[str, float]
    accuracy: float
    rounds: int
    diverged: bool
    bits_up: float | None
    bits_down: float | None
    same_symbols_bits_up: float | None
    same_symbols_bits_down: float | None
    cpu_s: float

    @property
    def key(self) -> Key:
        """What was trained."""
        return self.codec, tuple(sorted(self.settings.items())), self.seed


def read_lines(path: Path, job: str) -> list[Line]:
    """The lines of a job; those of other jobs are left out, and an end that was cut short.

    Raises RunError for a line that is none.
    """
    if not path.exists():
        return []
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    lines = [_line(path, number, text) for number, text in enumerate(whole.splitlines(), start=1)]
    return [line for line in lines if line.job == job]


def append_line(path: Path, line: Line) -> None:
    """Add a line, flushed to disk; an end that was cut short is dropped first.

    Raises RunError if it cannot be written.
    """
    try:
        with path.open("a+b") as file:
            file.seek(0)
            # after the last newline; 0 in a file without one
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(json.dumps(asdict(line)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise storage_error(path, error) from error


def _line(path: Path, number: int, text: str) -> Line:
    try:
        return Line(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise RunError(
            f"{path}, line {number}, is no record of a training run ({error}); delete the line,"
            " or the file to train everything again"
        ) from error
