"""The server's journal: what was written is read, a torn end is nothing, and entries that wait
share a write and a sync."""

import asyncio
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cutlayer.errors import RunError
from cutlayer.net.server.journal import Entry, GroupCommit, Journal
from cutlayer.net.wire.frames import bounds_of, encode_message, journal_limits
from cutlayer.net.wire.link import LinkClosed
from cutlayer.net.wire.messages import (
    Activation,
    Adapter,
    MergedFrom,
    Micro,
    Position,
    Restarted,
    RoundClosed,
    Weight,
)
from cutlayer.spec import MiniBatch

LIMITS = journal_limits(bounds_of(MiniBatch(4, 5), 6, 100, 4))
ENTRIES = [
    Entry(0, Activation(Position(1, 0, 0), Micro(1.0, True), b"packet", b"labels", (3, 4))),
    Entry(2, Restarted(1)),
    Entry(0, Adapter(1, Weight(1), b"row")),
    Entry(None, RoundClosed(1, MergedFrom([0]))),
]


# two devices in one pass, and one by itself
PASSES = [
    Entry(3, Activation(Position(1, 0, 0), Micro(1.0, True), b"one", b"labels", (3,)), more=True),
    Entry(0, Activation(Position(1, 0, 1), Micro(0.5, True), b"other", b"labels", (1, 2))),
    Entry(1, Restarted(1)),
]


def _written(folder: Path) -> tuple[Journal, Path]:
    journal = Journal(folder, LIMITS)
    for entry in ENTRIES:
        journal.append(1, [entry])
    return journal, next(folder.glob("*.journal"))


def test_round_trip(tmp_path: Path) -> None:
    journal, _ = _written(tmp_path)
    assert journal.entries(1) == ENTRIES
    assert journal.entries(2) == []
    assert journal.made(1) == (0,)
    assert journal.made(2) is None


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    _, path = _written(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_entry_cut_short_is_as_if_never_written(tmp_path: Path) -> None:
    """At every length of the file, wherever in a group that is: a crash may leave any part of the
    last write."""
    journal, path = Journal(tmp_path, LIMITS), tmp_path / "round-000001.journal"
    ends = [0]
    for entry in ENTRIES:
        journal.append(1, [entry])
        ends.append(path.stat().st_size)
    data = path.read_bytes()
    together = Journal(tmp_path / "together", LIMITS)
    (tmp_path / "together").mkdir()
    together.append(1, ENTRIES)
    assert (tmp_path / "together" / path.name).read_bytes() == data
    for size in range(len(data)):
        path.write_bytes(data[:size])
        whole = sum(end <= size for end in ends) - 1
        assert journal.entries(1) == ENTRIES[:whole]
        assert path.stat().st_size == ends[whole]
        journal.append(1, [ENTRIES[whole]])
        assert journal.entries(1) == ENTRIES[: whole + 1]


def test_a_last_entry_of_other_bytes_is_dropped_and_an_earlier_one_is_an_error(
    tmp_path: Path,
) -> None:
    journal, path = _written(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert journal.entries(1) == ENTRIES[:-1]
    path.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    with pytest.raises(RunError, match="damaged at byte 0"):
        journal.entries(1)


def test_no_flipped_bit_cuts_off_what_comes_after_it(tmp_path: Path) -> None:
    """At every byte before the last entry: a damaged length is damage, and no torn end."""
    journal, path = _written(tmp_path)
    data = path.read_bytes()
    path.unlink()
    Journal(tmp_path, LIMITS).append(1, ENTRIES[:-1])
    for place in range(path.stat().st_size):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :])
        with pytest.raises(RunError, match="damaged at byte"):
            journal.entries(1)
        assert path.stat().st_size == len(data)


@pytest.mark.parametrize("length", [1, 16, 500])
def test_an_end_of_nothing_is_torn_off(length: int, tmp_path: Path) -> None:
    """Some file systems lengthen a file before they fill it."""
    journal, path = _written(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data + bytes(length))
    assert journal.entries(1) == ENTRIES
    assert path.read_bytes() == data


def test_a_pass_of_which_anything_is_missing_is_as_if_never_written(tmp_path: Path) -> None:
    """It was answered to nobody: at every length of the file."""
    journal, path = Journal(tmp_path, LIMITS), tmp_path / "round-000001.journal"
    ends = [0]
    for group in (PASSES[:2], PASSES[2:]):
        journal.append(1, group)
        ends.append(path.stat().st_size)
    assert journal.entries(1) == PASSES
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        whole = sum(end <= size for end in ends) - 1
        assert journal.entries(1) == PASSES[: 2 * whole]
        assert path.stat().st_size == ends[whole]


def test_a_journal_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """Its entries are passes of one device: no bit of the device's number was in use."""
    journal, path = _written(tmp_path)
    (length, device) = struct.unpack_from("<II", path.read_bytes())
    frame = encode_message(ENTRIES[0].message, 0)
    assert (length, device) == (len(frame), 0)
    head = struct.pack("<II", len(frame), 7)
    sums = struct.pack("<II", zlib.crc32(head), zlib.crc32(frame))
    path.write_bytes(head + sums + frame)
    assert journal.entries(1) == [Entry(7, ENTRIES[0].message)]


def test_old_rounds_are_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path, LIMITS)
    for number in (1, 2, 3):
        journal.append(number, [ENTRIES[1]])
    journal.drop_before(3)
    assert [len(journal.entries(number)) for number in (1, 2, 3)] == [0, 0, 1]


def test_a_disk_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot write"):
        Journal(tmp_path / "missing", LIMITS).append(1, ENTRIES[:1])


def test_a_group_is_one_sync_and_a_round_one_descriptor(tmp_path: Path) -> None:
    """Each sync comes after the whole of its group; a round that is over keeps no file open."""
    synced: list[tuple[int, int]] = []

    def sync(handle: int) -> None:
        synced.append((handle, os.fstat(handle).st_size))

    journal = Journal(tmp_path, LIMITS, sync)
    ends = []
    for number in (1, 2):
        for group in (ENTRIES[:3], ENTRIES[3:]):
            journal.append(number, group)
            ends.append((tmp_path / f"round-00000{number}.journal").stat().st_size)
    assert [size for _, size in synced] == ends
    handles = [handle for handle, _ in synced]
    assert handles[0] == handles[1] and handles[2] == handles[3]
    journal.drop_before(3)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(synced[-1][0])


class _SlowDisk:
    """Syncs that end when they are let; `order`: what happened, in order."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.let = asyncio.Semaphore(0)

    def sync(self, _: int) -> None:
        self.order.append("sync")

    async def compute(self, work: Callable[[], Any]) -> Any:
        self.order.append("begin")
        await self.let.acquire()
        return work()


def test_what_comes_during_a_sync_is_the_next_group(tmp_path: Path) -> None:
    """Nobody is told of an entry before its sync, and all in a group are told by one."""

    async def go() -> None:
        disk = _SlowDisk()
        journal = Journal(tmp_path, LIMITS, disk.sync)
        commit = GroupCommit(journal, disk.compute, lambda error: pytest.fail(str(error)))

        async def enter(number: int) -> None:
            commit.enter(1, ENTRIES[number])
            await commit.until(commit.entered)
            disk.order.append(f"reply {number}")

        tasks = [asyncio.create_task(enter(0))]
        await _turns()
        tasks += [asyncio.create_task(enter(number)) for number in (1, 2, 3)]
        await _turns()
        assert disk.order == ["begin"] and journal.entries(1) == []
        disk.let.release()
        await _turns()
        assert disk.order == ["begin", "sync", "begin", "reply 0"]
        assert journal.entries(1) == ENTRIES[:1]
        disk.let.release()
        await asyncio.gather(*tasks)
        assert disk.order[4:] == ["sync", "reply 1", "reply 2", "reply 3"]
        assert journal.entries(1) == ENTRIES

    asyncio.run(go())


def test_a_write_that_fails_is_told_once_and_nothing_is_written_after_it(tmp_path: Path) -> None:
    async def go() -> None:
        disk = _SlowDisk()
        errors: list[Exception] = []
        journal = Journal(tmp_path / "missing", LIMITS, disk.sync)
        commit = GroupCommit(journal, disk.compute, errors.append)
        commit.enter(1, ENTRIES[0])
        await _turns()
        commit.enter(1, ENTRIES[1])
        waits = [asyncio.create_task(commit.until(number)) for number in (1, 2)]
        disk.let.release()
        disk.let.release()
        await asyncio.wait(waits)
        (tmp_path / "missing").mkdir()
        commit.enter(1, ENTRIES[2])
        await _turns()
        assert all(isinstance(wait.exception(), LinkClosed) for wait in waits)
        (error,) = errors
        assert "cannot write" in str(error)
        assert disk.order == ["begin"] and journal.entries(1) == []

    asyncio.run(go())


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)
