"""The server's journal: what was written is read, and a torn end is nothing."""

from pathlib import Path

import pytest

from cutlayer.errors import RunError
from cutlayer.net.server.journal import Entry, Journal
from cutlayer.net.wire.frames import bounds_of, journal_limits
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


def _written(folder: Path) -> tuple[Journal, Path]:
    journal = Journal(folder, LIMITS)
    for entry in ENTRIES:
        journal.append(1, entry)
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
    """At every length of the file: a crash may leave any part of the last write."""
    journal, path = _written(tmp_path)
    data, ends = path.read_bytes(), [0]
    path.unlink()
    for entry in ENTRIES:
        journal.append(1, entry)
        ends.append(path.stat().st_size)
    assert path.read_bytes() == data
    for size in range(len(data)):
        path.write_bytes(data[:size])
        whole = sum(end <= size for end in ends) - 1
        assert journal.entries(1) == ENTRIES[:whole]
        assert path.stat().st_size == ends[whole]
        journal.append(1, ENTRIES[whole])
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
    for entry in ENTRIES[:-1]:
        journal.append(1, entry)
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


def test_old_rounds_are_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path, LIMITS)
    for number in (1, 2, 3):
        journal.append(number, ENTRIES[1])
    journal.drop_before(3)
    assert [len(journal.entries(number)) for number in (1, 2, 3)] == [0, 0, 1]


def test_a_disk_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot write"):
        Journal(tmp_path / "missing", LIMITS).append(1, ENTRIES[0])
