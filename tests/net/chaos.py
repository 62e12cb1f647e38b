"""Lets a schedule's faults happen, and counts those that did.

Knows a run's files and links; who is started again, and when, is `playing`'s.
"""

import asyncio
import os
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np

from cutlayer.errors import RunError
from cutlayer.net.server.timing import MeasuredRound
from cutlayer.net.wire.link import Link, LinkClosed
from cutlayer.training.state import RunState
from net.harness import Run
from net.schedules import Fault, Planned, Schedule, seen

# turns of the event loop that a slow one takes at most; a second of the run's time is eight
_SLOW_TURNS = 400
_HOURS_S = 10 * 3600.0


class KilledError(Exception):
    """A process that is no more. `silent`: what it had sent and was not on its way is lost."""

    def __init__(self, silent: bool = False) -> None:
        super().__init__("killed")
        self.silent = silent


class GoneError(Exception):
    """A device that goes away, and is not started again."""


@contextmanager
def room(size_bytes: int) -> Iterator[None]:
    """A disk that takes no file beyond so many bytes: writes end within it, as on a full one."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@final
class Chaos:
    """A schedule's faults in a run. `struck`: what happened, by what it was seen to do."""

    def __init__(self, schedule: Schedule, run: Run) -> None:
        self.struck: Counter[str] = Counter()
        self._run = run
        self._rng = np.random.default_rng([schedule.seed, 1])
        self._due = list(schedule.planned)
        self._places: Counter[Fault] = Counter()

    def due(self, fault: Fault) -> Planned | None:
        """This is a place where `fault` may happen: the one that is planned from here on."""
        self._places[fault] += 1
        for planned in self._due:
            if planned.fault is fault and planned.after <= self._places[fault]:
                return planned
        return None

    def strike(self, planned: Planned, name: str = "") -> None:
        """It happens, now, and counts as `name`."""
        name = name or planned.fault.value
        assert name in seen(planned.fault), name
        self._due.remove(planned)
        self.struck[name] += 1

    def strikes(self, fault: Fault, name: str = "") -> Planned | None:
        """The fault, if it happens here."""
        planned = self.due(fault)
        if planned is not None:
            self.strike(planned, name)
        return planned

    def kill(self, fault: Fault, name: str = "") -> None:
        """Raises KilledError if the process is killed here."""
        planned = self.strikes(fault, name)
        if planned is not None:
            raise KilledError(silent=planned.size < 0.5)

    async def server_compute(self, work: Callable[[], Any]) -> Any:
        """What a server's driver computes and writes."""
        await self._dawdle(Fault.SERVER_SLOW)
        self.kill(Fault.SERVER_BEFORE)
        journal, before = self._journal()
        # an entry is longer: whatever is written next ends within it
        outcome = self._on_disk(Fault.JOURNAL_FULL, before, 100, work)
        journal, after = self._journal()
        if journal is not None and after > before:
            self._after_append(journal, before, after)
        self.kill(Fault.SERVER_AFTER, "server killed after it has computed")
        return outcome

    async def device_compute(self, state: Path, work: Callable[[], Any]) -> Any:
        """What the driver of the device with this state file computes and writes."""
        await self._dawdle(Fault.DEVICE_SLOW)
        self.kill(Fault.DEVICE_BEFORE)
        if self.strikes(Fault.DEVICE_GONE) is not None:
            raise GoneError
        before = _version(state)
        outcome = self._on_disk(Fault.DEVICE_FULL, 0, 500, work)
        written = _version(state) != before
        self.kill(
            Fault.DEVICE_AFTER,
            "device killed, state just on disk" if written else "device killed, work not on disk",
        )
        return outcome

    def save(self, state: RunState, measured: MeasuredRound | None) -> bool:
        """A server's checkpoint, of a run that goes on."""
        self.kill(Fault.BEFORE_CHECKPOINT)
        self._run.keep_journal(state.round)
        self._on_disk(Fault.CHECKPOINT_FULL, 0, 500, lambda: self._run.directory.save(state))
        self.kill(Fault.AFTER_CHECKPOINT)
        return False

    def passed(self, seconds: float) -> float:
        """What a clock says has passed, when it is `seconds`."""
        forward = self.strikes(Fault.CLOCK_FORWARD)
        if forward is not None:
            seconds += forward.size * _HOURS_S
        back = self.strikes(Fault.CLOCK_BACK)
        if back is not None:
            seconds -= back.size * _HOURS_S
        return seconds

    def _on_disk(self, full: Fault, taken: int, free: int, work: Callable[[], Any]) -> Any:
        """Work on a disk that may have no more than `free` bytes beyond those `taken`.

        The fault has happened when a write has failed.
        """
        planned = self.due(full)
        if planned is None:
            return work()
        try:
            with room(taken + int(planned.size * free)):
                return work()
        except RunError as error:
            assert "cannot write" in str(error), error
            self.strike(planned)
            raise

    async def _dawdle(self, slow: Fault) -> None:
        """A few turns of the loop, in which others go on; many for who is slow."""
        planned = self.strikes(slow)
        turns = int(self._rng.integers(4))
        for _ in range(turns if planned is None else 8 + int(planned.size * _SLOW_TURNS)):
            await asyncio.sleep(0)

    def _after_append(self, journal: Path, before: int, after: int) -> None:
        """An entry is on disk and its answer has not left: what a crash may leave of the entry."""
        planned = self.strikes(Fault.SERVER_TORN)
        if planned is not None:
            os.truncate(journal, before + int(planned.size * (after - before)))
            raise KilledError
        self.kill(Fault.SERVER_AFTER, "server killed between its journal and its answer")

    def _journal(self) -> tuple[Path | None, int]:
        """The journal of the round in progress, and its length."""
        newest = max(self._run.folder.glob("round-*.journal"), default=None)
        return newest, 0 if newest is None else newest.stat().st_size


def _version(path: Path) -> tuple[int, int] | None:
    """Of a file that is replaced as a whole."""
    if not path.exists():
        return None
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


@final
class BrokenLink(Link):
    """A device's end of a link on which frames are lost, cut, doubled and swapped."""

    def __init__(self, inner: Link, chaos: Chaos) -> None:
        self._inner = inner
        self._chaos = chaos
        self._kept: list[bytes] = []

    @property
    def peer(self) -> str:
        return self._inner.peer

    async def send(self, frame: bytes) -> None:
        await self._cut("link cut before a frame up")
        part = self._chaos.strikes(Fault.CUT_WITHIN, "link cut within a frame up")
        if part is not None:
            await self._inner.send(frame[: int(part.size * len(frame))])
            await self._end()
        await self._inner.send(frame)
        if self._chaos.strikes(Fault.TWICE, "a frame up twice") is not None:
            await self._inner.send(frame)
        await self._cut("link cut after a frame up")

    async def receive(self) -> bytes:
        if self._kept:
            return self._kept.pop()
        frame = await self._inner.receive()
        await self._cut("link cut, a frame down lost")
        part = self._chaos.strikes(Fault.CUT_WITHIN, "link cut within a frame down")
        if part is not None:
            await self._inner.close("cut")
            return frame[: int(part.size * len(frame))]
        if self._chaos.strikes(Fault.TWICE, "a frame down twice") is not None:
            self._kept.append(frame)
        if self._chaos.due(Fault.SWAPPED) is not None and not self._kept:
            second = await self._soon()
            if second is not None:
                self._kept.append(frame)
                self._chaos.strikes(Fault.SWAPPED)
                return second
        return frame

    async def close(self, reason: str = "") -> None:
        await self._inner.close(reason)

    async def _cut(self, name: str) -> None:
        """Here the link may be cut, and the device may be killed."""
        self._chaos.kill(Fault.DEVICE_AT_FRAME)
        if self._chaos.strikes(Fault.CUT, name) is not None:
            await self._end()

    async def _end(self) -> None:
        await self._inner.close("cut")
        raise LinkClosed("cut")

    async def _soon(self) -> bytes | None:
        """The next frame, if it is as good as here."""
        coming = asyncio.create_task(self._inner.receive())
        for _ in range(20):
            await asyncio.sleep(0)
        if not coming.done():
            coming.cancel()
        (found,) = await asyncio.gather(coming, return_exceptions=True)
        return found if isinstance(found, bytes) else None
