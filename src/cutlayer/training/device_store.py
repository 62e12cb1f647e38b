"""What devices remember that do not take part, in a file: a record of tensors a device, in pages.

A record is never written over: a new one goes where nothing lies that the last checkpoint's table
knows, and is on disk before the checkpoint that knows it. So a run that is killed at any point
finds every record as its checkpoint had it. The file is as large as the devices that have ever
taken part, and the records of one round more. A record is mapped into memory while it is read.
"""

import mmap
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias, final

import numpy as np
from jaxtyping import Int64
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cutlayer.errors import RunError, reason
from cutlayer.files import PRIVATE, storage_error

FILE = "devices.store"
_PAGE = 4096
# what a device remembers, by name
Memory: TypeAlias = Mapping[str, Tensor]
# of each device: where its record begins [page], how long it is (0: it has none) [byte], its CRC-32
Table: TypeAlias = Int64[np.ndarray, "device 3"]


def empty_table(devices: int) -> Table:
    """Of devices that have never taken part."""
    return np.zeros((devices, 3), dtype=np.int64)


@final
class DeviceStore:
    """The records of a run in its directory; which there are, a table says."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE

    def read(self, table: Table, device: int) -> Memory:
        """What a device remembers; nothing if it has no record. Raises RunError for a record that
        is not as it was written."""
        page, size, checksum = table[device].tolist()
        if size == 0:
            return {}
        try:
            with self._path.open("rb") as file:
                begin = page * _PAGE
                first = begin - begin % mmap.ALLOCATIONGRANULARITY
                with mmap.mmap(
                    file.fileno(), begin - first + size, access=mmap.ACCESS_READ, offset=first
                ) as mapped:
                    content = mapped[begin - first :]
            if zlib.crc32(content) != checksum:
                raise ValueError("its bytes have changed since they were written")
            return load(content)
        except (OSError, ValueError, SafetensorError) as error:
            raise RunError(
                f"what device {device} remembers cannot be read from {self._path}:"
                f" {reason(error)}; restore the file, or start a new run"
            ) from error

    def write(self, table: Table, records: Mapping[int, Memory]) -> Table:
        """The table with these records in place of those that their devices had; an empty one is
        none. What the given table knows is still there. Raises StorageError."""
        made, gaps = table.copy(), _Gaps(table)
        with self._open() as file:
            for device, memory in sorted(records.items()):
                made[device] = 0
                if not memory:
                    continue
                content = save({name: memory[name].contiguous() for name in sorted(memory)})
                page = gaps.take(-(-len(content) // _PAGE))
                _write(file, content, page * _PAGE)
                made[device] = page, len(content), zlib.crc32(content)
            os.fsync(file)
        return made

    @contextmanager
    def _open(self) -> Iterator[int]:
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, PRIVATE)
            try:
                yield file
            finally:
                os.close(file)
        except OSError as error:
            raise storage_error(self._path, error) from error


def _write(file: int, content: bytes, place: int) -> None:
    """All of it: on a disk that fills up the system writes a part."""
    left = memoryview(content)
    while left:
        written = os.pwrite(file, left, place)
        left, place = left[written:], place + written


class _Gaps:
    """The pages between the records of a table, and those behind them, without end."""

    def __init__(self, table: Table) -> None:
        there = table[table[:, 1] > 0]
        order = np.argsort(there[:, 0])
        begins = there[order, 0]
        ends = begins + -(-there[order, 1] // _PAGE)
        self._begins = np.concatenate([[0], ends])
        self._sizes = np.concatenate([begins, [np.iinfo(np.int64).max]]) - self._begins

    def take(self, pages: int) -> int:
        """The first page of the first gap that has room for so many, which are then taken."""
        gap = int(np.argmax(self._sizes >= pages))
        page = int(self._begins[gap])
        self._begins[gap] += pages
        self._sizes[gap] -= pages
        return page
