"""The finished rounds of a run, as a page or a monitor is told of them.

Knows the file of the records, which it reads as it grows. Of every round it keeps about a kilobyte,
whatever the number of devices; what each device did, of the last round alone.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import final

from cutlayer.errors import RunError
from cutlayer.train.records import RoundRecord, TrainedRound, parse_round

# of one answer: a page that has none yet asks several times
_MOST_ROUNDS = 500


@final
class History:
    """The rounds in the file at `path` (`rounds.jsonl`), which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0
        self._rounds: list[RoundRecord] = []
        self._by_device: tuple[Mapping[str, float], ...] = ()

    @property
    def last(self) -> RoundRecord | None:
        """The last round; None before the first."""
        self._read()
        return self._rounds[-1] if self._rounds else None

    def after(self, number: int) -> tuple[RoundRecord, ...]:
        """The rounds after round `number` in their order, the first 500 of them."""
        self._read()
        return tuple([one for one in self._rounds if one.round > number][:_MOST_ROUNDS])

    @property
    def by_device(self) -> tuple[Mapping[str, float], ...]:
        """The seconds by phase of each device in the last round; empty before the first."""
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
            with suppress(RunError):  # a full disk cut it short: no round of the run's
                self._enter(parse_round(str(self._path), line, len(self._rounds)))

    def _enter(self, record: RoundRecord) -> None:
        if isinstance(record, TrainedRound):
            self._by_device = record.device_delay_by_phase_s
            record = record.without_devices()
        self._rounds.append(record)
