"""What came of each finished round, as a page or a monitor shows it.

Knows the file of the records, which it reads as it grows. Of every round it keeps about a kilobyte,
whatever the number of devices; what each device did, of the last round alone.
"""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

# of one answer: a page that has none yet asks several times
_MOST_ROUNDS = 500


@dataclass(frozen=True)
class RoundStatus:
    """A finished round; 0 is before training. What its record lacks, or is not finite, is None.

    `score`: accuracy from 0 to 1, or perplexity, as `measure` says. `delay_by_phase_s` is that of
    `slowest_device`.
    """

    round: int
    measure: str
    score: float | None
    eval_loss: float | None
    train_loss: float | None
    delay_s: float | None
    delay_by_phase_s: dict[str, float] | None
    slowest_device: int | None
    bytes_by_payload: dict[str, int] | None
    uplink_bytes: int | None
    downlink_bytes: int | None


@final
class History:
    """The rounds in the file at `path` (`rounds.jsonl`), which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0
        self._rounds: list[RoundStatus] = []
        self._by_device: tuple[dict[str, float] | None, ...] = ()

    @property
    def last(self) -> RoundStatus | None:
        """The last round; None before the first."""
        self._read()
        return self._rounds[-1] if self._rounds else None

    def after(self, number: int) -> tuple[RoundStatus, ...]:
        """The rounds after round `number` in their order, the first 500 of them."""
        self._read()
        return tuple([one for one in self._rounds if one.round > number][:_MOST_ROUNDS])

    @property
    def by_device(self) -> tuple[dict[str, float] | None, ...]:
        """The seconds by phase of each device in the last round.

        None for a device that missed it or was not seen all along; empty where nobody measured.
        """
        self._read()
        return self._by_device

    def _read(self) -> None:
        """What was appended since; a line that is being written waits for its end."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for line in whole.splitlines():
            with suppress(json.JSONDecodeError):  # a full disk cut it short: no round of the run's
                self._enter(json.loads(line))

    def _enter(self, record: Mapping[str, Any]) -> None:
        self._rounds.append(_status_of(record))
        self._by_device = tuple(map(_finite, record.get("device_delay_by_phase_s", ())))


def _status_of(record: Mapping[str, Any]) -> RoundStatus:
    measure = "perplexity" if "perplexity" in record else "accuracy"
    return RoundStatus(
        round=record["round"],
        measure=measure,
        score=_number(record.get(measure)),
        eval_loss=_number(record.get("eval_loss")),
        train_loss=_number(record.get("train_loss")),
        delay_s=_number(record.get("delay_s")),
        delay_by_phase_s=_finite(record.get("delay_by_phase_s")),
        slowest_device=record.get("slowest_device"),
        bytes_by_payload=record.get("bytes_by_payload"),
        uplink_bytes=record.get("uplink_bytes"),
        downlink_bytes=record.get("downlink_bytes"),
    )


def _number(value: float | None) -> float | None:
    """JSON has no infinity, and a browser takes none."""
    return value if value is not None and math.isfinite(value) else None


def _finite(seconds: Mapping[str, float] | None) -> dict[str, float] | None:
    if seconds is None:
        return None
    return {phase: value for phase, value in seconds.items() if math.isfinite(value)}
