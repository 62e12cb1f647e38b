"""Tables on the disk. That pictures repeat to the last byte is tested with a picture."""

import csv
from pathlib import Path

import pytest

from cutlayer.errors import RunError
from cutlayer.report.save import save_table


def test_a_table_reads_back(tmp_path: Path) -> None:
    rows = [("a, b", 1), ('say "x"', 2.5)]
    path = save_table(tmp_path / "t.csv", ("words", "number"), rows)
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["words", "number"], ["a, b", "1"], ['say "x"', "2.5"]]
    assert [file.name for file in tmp_path.iterdir()] == ["t.csv"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write .*t\.csv"):
        save_table(tmp_path / "gone" / "t.csv", ("x",), [])
