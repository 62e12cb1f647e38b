"""What an entry of the server's journal takes, by itself and with others: wall and processor time.

    python benchmarks/journal.py [--folder FOLDER] [--json FILE]

See README.md here for what each figure answers. Needs `pip install '.[train,net]'`.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

from cutlayer.net.server.journal import Entry, Journal
from cutlayer.net.wire.frames import bounds_of, encode_message, journal_limits
from cutlayer.net.wire.messages import Activation, Micro, Position
from cutlayer.spec import MiniBatch

# a mini-batch's packet and labels in the main job
_PACKET_BYTES, _LABEL_BYTES = 9_000, 16
_GROUP = 10
_LIMITS = journal_limits(bounds_of(MiniBatch(16, 17), 384, 1000, 10))
OPENED = "opened, written, fsync"
GOAL = 0.2


@dataclass(frozen=True)
class JournalRow:
    """An entry [ms], the median over groups; `x`: its wall time over that of a file opened for each
    entry, the median of the ratios of neighbouring groups."""

    name: str
    wall_ms: float
    cpu_ms: float
    x: float


def measured_rows(folder: Path, groups: int = 60) -> list[JournalRow]:
    """So many groups of ten entries in each way, which take turns, on the disk of `folder`."""
    journal = Journal(folder, _LIMITS)
    rng = np.random.default_rng(0)
    ways: dict[str, Callable[[Sequence[Entry]], None]] = {
        OPENED: lambda entries: _opened(folder / "opened", entries),
        "kept open, each by itself": lambda entries: _alone(journal, entries),
        f"kept open, groups of {_GROUP}": lambda entries: journal.append(2, entries),
    }
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(groups):
        entries = [_entry(rng.bytes(_PACKET_BYTES)) for _ in range(_GROUP)]
        for name, write in ways.items():
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            write(entries)
            cpu[name].append((time.process_time() - began_cpu_s) / _GROUP)
            wall[name].append((time.perf_counter() - began_s) / _GROUP)
    return [
        JournalRow(
            name,
            1e3 * median(wall[name]),
            1e3 * median(cpu[name]),
            median(own / old for own, old in zip(wall[name], wall[OPENED], strict=True)),
        )
        for name in ways
    ]


def _entry(packet: bytes) -> Entry:
    labels = bytes(_LABEL_BYTES)
    return Entry(0, Activation(Position(1, 0, 0), Micro(1.0, True), packet, labels, (0,) * 16))


def _opened(path: Path, entries: Sequence[Entry]) -> None:
    """As a journal may be written most simply."""
    for entry in entries:
        with path.open("ab") as file:
            file.write(encode_message(entry.message, 0))
            file.flush()
            os.fsync(file.fileno())


def _alone(journal: Journal, entries: Sequence[Entry]) -> None:
    for entry in entries:
        journal.append(1, [entry])


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: temporary)")
    parser.add_argument("--groups", type=int, default=60)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure by name")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rows = measured_rows(Path(folder), arguments.groups)
    print(f"{'an entry of 9 KB':28}{'wall ms':>9}{'CPU ms':>9}{'x':>7}")
    for row in rows:
        print(f"{row.name:28}{row.wall_ms:9.3f}{row.cpu_ms:9.3f}{row.x:7.2f}")
    met = rows[-1].x <= GOAL
    print(f"goal: groups in at most {GOAL} times: {'met' if met else 'missed'}")
    if arguments.json:
        about = {"python": platform.python_version(), "processors": os.cpu_count()}
        found = {"about": about, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
