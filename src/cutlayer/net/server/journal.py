"""What a server must not forget of the round in progress: all that it has answered, in order.

One file a round, of entries; little endian:

    length of the frame u32 | device u32 (2^32-1: the round's own) | CRC-32 of both u32
    | CRC-32 of the frame u32 | the frame

An entry is on disk before the reply to it leaves, so what a device was told is never lost. What was
computed is not in it: going through the entries again gives the same tensors, bit for bit. A length
is believed only with its checksum, so that damage is never taken for the torn end of a file. Knows
no session.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from cutlayer.errors import RunError
from cutlayer.files import storage_error, sync_folder
from cutlayer.net.wire.frames import Limits, decode_message, encode_message
from cutlayer.net.wire.messages import Message, RoundClosed

_HEAD = struct.Struct("<II")
_CHECKSUMS = struct.Struct("<II")
_NO_DEVICE = 2**32 - 1


@dataclass(frozen=True)
class Entry:
    """One message that the server has answered, and whose it was (None: the round closed)."""

    device: int | None
    message: Message


@final
class Journal:
    """The journals of a run's rounds, in its directory."""

    def __init__(self, directory: Path, limits: Limits) -> None:
        self._directory = directory
        self._limits = limits

    def append(self, round_number: int, entry: Entry) -> None:
        """Write an entry, flushed to disk. Raises RunError if it cannot be."""
        path = self._path(round_number)
        frame = encode_message(entry.message, 0)
        device = _NO_DEVICE if entry.device is None else entry.device
        new = not path.exists()
        try:
            with open(path, "ab", opener=_private) as file:
                file.write(_entry(device, frame))
                file.flush()
                os.fsync(file.fileno())
            if new:
                sync_folder(self._directory)
        except OSError as error:
            raise storage_error(path, error) from error

    def entries(self, round_number: int) -> list[Entry]:
        """The entries of a round; one that was cut short by a crash is dropped, and cut off.

        Raises RunError for a journal that is damaged otherwise.
        """
        path = self._path(round_number)
        if not path.exists():
            return []
        data = path.read_bytes()
        found, whole = [], 0
        for device, frame, end in _entries(data, path):
            message, _ = decode_message(frame, self._limits)
            found.append(Entry(None if device == _NO_DEVICE else device, message))
            whole = end
        if whole < len(data):
            os.truncate(path, whole)
        return found

    def made(self, round_number: int) -> tuple[int, ...] | None:
        """The devices with which a round closed; None if it did not, or nobody knows any more."""
        for entry in self.entries(round_number):
            if isinstance(entry.message, RoundClosed):
                return tuple(entry.message.made.devices)
        return None

    def drop_before(self, round_number: int) -> None:
        """Forget rounds that a checkpoint has made needless."""
        for path in self._directory.glob("round-*.journal"):
            if path.name < self._path(round_number).name:
                path.unlink(missing_ok=True)

    def _path(self, round_number: int) -> Path:
        return self._directory / f"round-{round_number:06d}.journal"


def _private(name: str, flags: int) -> int:
    """What devices sent is for its owner alone."""
    return os.open(name, flags, 0o600)


def _entry(device: int, frame: bytes) -> bytes:
    head = _HEAD.pack(len(frame), device)
    return head + _CHECKSUMS.pack(zlib.crc32(head), zlib.crc32(frame)) + frame


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
