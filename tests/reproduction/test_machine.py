"""How many processes there is memory for."""

from pathlib import Path

import pytest

from cutlayer.units import GIB, KIB
from reproduction.machine import room_for


@pytest.mark.parametrize(("left_gib", "found"), [(9.0, 4), (3.5, 3), (3.0, 3), (0.5, 1)])
def test_no_more_than_memory_allows(left_gib: float, found: int, tmp_path: Path) -> None:
    left_kib = round(left_gib * GIB / KIB)
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(
        f"MemTotal:       99999999 kB\nMemAvailable:   {left_kib} kB\n", encoding="utf-8"
    )
    assert room_for(4, GIB, meminfo) == found


def test_all_of_them_where_nobody_tells(tmp_path: Path) -> None:
    assert room_for(4, GIB, tmp_path / "none") == 4
    (tmp_path / "old").write_text("MemTotal: 1 kB\n", encoding="utf-8")
    assert room_for(4, GIB, tmp_path / "old") == 4
