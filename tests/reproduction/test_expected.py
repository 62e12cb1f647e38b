"""Every figure that needs no training, made again by the command, against the committed numbers."""

import csv
import math
import subprocess
import sys
from pathlib import Path

import pytest

from reproduction.catalogue import FIGURES

ROOT = Path(__file__).parents[2]
EXPECTED = ROOT / "reproduction" / "expected"
ANALYTIC = [name for name, figure in FIGURES.items() if not figure.training_minutes]
# the reason's numbers are those of the other columns, rounded
PROSE = "reason"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `python -m reproduction all --analytic` writes, without type checks."""
    output = tmp_path_factory.mktemp("paper")
    command = [sys.executable, "-m", "reproduction", "all", "--analytic", "--output", output]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert " claims of the paper: " in done.stdout and "not made" not in done.stdout
    return output


def test_there_is_a_file_for_each_of_them() -> None:
    names = {path.name for path in EXPECTED.iterdir()}
    assert names == {f"{name}{ending}.csv" for name in ANALYTIC for ending in ("", "-claims")}


@pytest.mark.slow("makes every analytic figure of the paper")
@pytest.mark.parametrize("ending", ["", "-claims"])
@pytest.mark.parametrize("name", ANALYTIC)
def test_numbers_and_verdicts_are_the_committed_ones(made: Path, name: str, ending: str) -> None:
    file = f"{name}{ending}.csv"
    ours, expected = rows(made / name / file), rows(EXPECTED / file)
    assert [list(row) for row in ours] == [list(row) for row in expected]
    for new, old in zip(ours, expected, strict=True):
        for column in set(old) - {PROSE}:
            assert same(new[column], old[column]), (column, new, old)


@pytest.mark.slow("makes every analytic figure of the paper")
def test_all_verdicts_are_in_one_file(made: Path) -> None:
    verdicts = rows(made / "verdicts.csv")
    figures = list(dict.fromkeys(row["figure"] for row in verdicts))
    assert figures == ANALYTIC
    for name in ANALYTIC:
        own = [row["verdict"] for row in verdicts if row["figure"] == name]
        assert own == [row["verdict"] for row in rows(EXPECTED / f"{name}-claims.csv")]


def test_equal_numbers_are_equal_and_others_are_not() -> None:
    assert same("exact", "exact") and not same("exact", "within 5 %")
    assert same("1000000.0", "1000000.9") and not same("1000000.0", "1000002.0")
    # a number near a half may be rounded either way on another machine
    assert same("0.1234", "0.1235") and not same("0.1234", "0.1236")
    assert same("nan", "nan") and not same("nan", "1.0") and not same("", "0.0")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def same(ours: str, expected: str) -> bool:
    """Equal words, or numbers within 1e-6 of each other or within a unit of the last digit."""
    try:
        new, old = float(ours), float(expected)
    except ValueError:
        return ours == expected
    if math.isnan(old):
        return math.isnan(new)
    digits = len(expected.partition(".")[2])
    # half a unit more for the binary fractions of decimal ones
    return abs(new - old) <= max(1e-6 * abs(old), 1.5 * 10.0**-digits if digits else 0.0)
