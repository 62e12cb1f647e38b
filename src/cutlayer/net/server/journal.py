"""What a server must not forget of the round in progress: all that it has answered, in order.

One file a round, of entries; little endian:

    length of the frame u32 | device u32 | CRC-32 of both u32 | CRC-32 of the frame u32 | the frame

The device 2^32-1 is nobody: the entry is the round's own. Else the device is the lower 31 bits, and
the highest one says that the next entry was computed in the same pass: what devices were trained
together is trained together again, and a pass whose last entry is missing was answered to nobody.

An entry is on disk before the reply to it leaves, so what a device was told is never lost. Entries
that wait go to disk together (`GroupCommit`). What was computed is not in it: going through the
entries again gives the same tensors, bit for bit. A length is believed only with its checksum, so
that damage is never taken for the torn end of a file. Knows no session.
"""

import asyncio
import os
import struct
import sys
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

from cutlayer.errors import RunError
from cutlayer.files import PRIVATE, storage_error, sync_folder, with_descriptor
from cutlayer.net.wire.frames import Limits, decode_message, message_parts, size_of
from cutlayer.net.wire.link import Compute, LinkClosed
from cutlayer.net.wire.messages import Message, RoundClosed

# what a file's length needs to be read again goes with its bytes, its time of change need not
sync_file: Callable[[int], None] = os.fdatasync if sys.platform == "linux" else os.fsync

_HEAD = struct.Struct("<II")
_CHECKSUMS = struct.Struct("<II")
_NO_DEVICE = 2**32 - 1
# what one write takes, at least: POSIX's limit on Linux and macOS
_MOST_BUFFERS = 1024
_MORE = 2**31


@dataclass(frozen=True)
class Entry:
    """One message that the server has answered, and whose it was (None: the round closed).

    `more`: the next entry was computed in the same pass.
    """

    device: int | None
    message: Message
    more: bool = False


@final
class Journal:
    """The journals of a run's rounds, in its directory."""

    def __init__(
        self, directory: Path, limits: Limits, sync: Callable[[int], None] = sync_file
    ) -> None:
        self._directory = directory
        self._limits = limits
        self._sync = sync
        self._round: int | None = None
        self._handle = -1
        self._close: Callable[[], object] = lambda: None

    def append(self, round_number: int, entries: Sequence[Entry]) -> None:
        """Write entries in their order, flushed to disk by one sync.

        A crash leaves the first few of them, whole. Raises RunError if they cannot be written; the
        journal may then end within an entry, as after a crash.
        """
        try:
            if round_number != self._round:
                self._open(round_number)
            self._write([memoryview(part) for entry in entries for part in _parts(entry)])
            self._sync(self._handle)
        except OSError as error:
            raise storage_error(self._path(round_number), error) from error

    def entries(self, round_number: int) -> list[Entry]:
        """The entries of a round; what was cut short by a crash, an entry or a pass of several, is
        dropped, and cut off.

        Raises RunError for a journal that is damaged otherwise.
        """
        path = self._path(round_number)
        if not path.exists():
            return []
        data = path.read_bytes()
        found: list[Entry] = []
        whole = entries = 0
        for device, frame, end in _entries(data, path):
            message, _ = decode_message(frame, self._limits)
            if device == _NO_DEVICE:
                found.append(Entry(None, message))
            else:
                found.append(Entry(device % _MORE, message, device >= _MORE))
            if not found[-1].more:
                whole, entries = end, len(found)
        if whole < len(data):
            os.truncate(path, whole)
        return found[:entries]

    def made(self, round_number: int) -> tuple[int, ...] | None:
        """The devices that were merged as a round closed; None if it did not, or nobody knows any
        more."""
        made = None
        for entry in self.entries(round_number):
            if isinstance(
                entry.message, RoundClosed
            ):  # a second one is of those who were not left out
                made = tuple(entry.message.made.devices)
        return made

    def drop_before(self, round_number: int) -> None:
        """Forget rounds that a checkpoint has made needless."""
        if self._round is not None and self._round < round_number:
            self._close()
            self._round = None
        for path in self._directory.glob("round-*.journal"):
            if path.name < self._path(round_number).name:
                path.unlink(missing_ok=True)

    def _write(self, left: list[memoryview]) -> None:
        """All of it; a disk that is nearly full takes a part at a time."""
        while left:
            written = os.writev(self._handle, left[:_MOST_BUFFERS])
            done = 0
            while done < len(left) and written >= len(left[done]):
                written -= len(left[done])
                done += 1
            left = left[done:]
            if written:
                left[0] = left[0][written:]

    def _open(self, round_number: int) -> None:
        """One descriptor a round; what devices sent is for the server's owner alone."""
        self._close()
        path = self._path(round_number)
        new = not path.exists()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._handle = with_descriptor(lambda: os.open(path, flags, PRIVATE))
        self._close = weakref.finalize(self, os.close, self._handle)
        self._round = round_number
        if new:
            sync_folder(self._directory)

    def _path(self, round_number: int) -> Path:
        return self._directory / f"round-{round_number:06d}.journal"


def _parts(entry: Entry) -> tuple[bytes, ...]:
    """The bytes of an entry."""
    frame = message_parts(entry.message, 0)
    device = _NO_DEVICE if entry.device is None else entry.device + _MORE * entry.more
    head = _HEAD.pack(size_of(frame), device)
    checksum = 0
    for part in frame:
        checksum = zlib.crc32(part, checksum)
    return b"".join((head, _CHECKSUMS.pack(zlib.crc32(head), checksum))), *frame


def _entries(data: bytes, path: Path) -> Iterator[tuple[int, bytes, int]]:
    """Device, frame and end of each whole entry."""
    at, start = 0, _HEAD.size + _CHECKSUMS.size
    while at + start <= len(data):
        size, device = _HEAD.unpack_from(data, at)
        head_checksum, frame_checksum = _CHECKSUMS.unpack_from(data, at + _HEAD.size)
        end = at + start + size
        sound = zlib.crc32(data[at : at + _HEAD.size]) == head_checksum
        if sound and end > len(data):
            return
        frame = data[at + start : end]
        if not sound or zlib.crc32(frame) != frame_checksum:
            if (sound and end == len(data)) or not any(data[at:]):
                return  # a length that reached the disk before what it is the length of
            raise RunError(f"the journal {path} is damaged at byte {at}: restore it from a backup")
        yield device, frame, end
        at = end


# Many entries, one write and one sync.


@final
class GroupCommit:
    """Entries on their way to a journal. All that wait are written together, beside the event loop;
    what comes meanwhile is the next group, so nobody waits for a group to fill.

    Entries get numbers from 1 on, are written in this order, and `until(n)` returns only once the
    first n are on disk. Who sends nothing before `until(entered)` has sent no reply whose entry, or
    an entry before it, a crash may lose. `failed` is told of the first error; no entry is written
    after it.
    """

    def __init__(
        self, journal: Journal, compute: Compute, failed: Callable[[Exception], None]
    ) -> None:
        self._journal = journal
        self._compute = compute
        self._failed = failed
        self._waiting: list[Entry] = []
        self._round = 0
        self._written = 0
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._over = False
        self.entered = 0

    def enter(self, round_number: int, entry: Entry) -> None:
        """Let an entry be written. One of another round only once all before it are on disk."""
        assert round_number == self._round or self._written == self.entered
        self._round = round_number
        self._waiting.append(entry)
        self.entered += 1
        if self._task is None and not self._over:
            self._task = asyncio.create_task(self._write())

    async def until(self, number: int) -> None:
        """Wait until so many entries are on disk. Raises LinkClosed: they will not be."""
        while self._written < number:
            if self._over:
                raise LinkClosed("the server has stopped")
            await self._moved.wait()

    def stop(self) -> None:
        """Write nothing more: what waits is as if it had not come."""
        self._over = True
        self._move()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def _write(self) -> None:
        try:
            await asyncio.sleep(0)  # what the loop has at hand goes with it
            while self._waiting and not self._over:
                group, self._waiting = self._waiting, []
                await self._compute(partial(self._journal.append, self._round, group))
                self._written += len(group)
                self._move()
        except Exception as error:
            self.stop()
            self._failed(error)
        finally:
            self._task = None

    def _move(self) -> None:
        """Wake who waits."""
        self._moved.set()
        self._moved = asyncio.Event()
