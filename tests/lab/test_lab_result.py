"""What a lab prints and writes."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from cutlayer.lab.lab import (
    LabComparison,
    PhaseComparison,
    comparison_table,
    comparison_verdict,
    rounds_text,
    write_comparison,
)

LINES = (
    PhaseComparison("device forward", 2.0, 2.5, "calibrated in round 1"),
    PhaseComparison("barrier", 0.0, 1.0, "timeline"),
)
COMPARISON = LabComparison(LINES, PhaseComparison("round", 10.0, 11.5, "all of it"), (2, 3))


def test_the_table_has_every_phase_and_the_round() -> None:
    console = Console(width=80, force_terminal=False)
    with console.capture() as said:
        console.print(comparison_table(COMPARISON))
    text = said.get()
    assert "+25.0 %" in text and "+15.0 %" in text and "barrier" in text
    assert "median of rounds 2 to 3" in text


def test_the_verdict_is_computed() -> None:
    assert comparison_verdict(COMPARISON).endswith("+15.0 %, not within 10 %")
    near = LabComparison(LINES, PhaseComparison("round", 10.0, 9.5, "all of it"), (2,))
    assert comparison_verdict(near).endswith("-5.0 %, within 10 %")


def test_what_is_written_reads_back_and_repeats(tmp_path: Path) -> None:
    table, *pictures = write_comparison(COMPARISON, tmp_path)
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["phase"] for row in rows] == ["device forward", "barrier", "round"]
    assert float(rows[0]["difference"]) == 0.25
    # nothing was predicted: there is nothing to divide by
    assert rows[1]["difference"] == ""
    first = [path.read_bytes() for path in pictures]
    write_comparison(COMPARISON, tmp_path)
    assert first == [path.read_bytes() for path in pictures]
    assert [path.suffix for path in pictures] == [".png", ".svg"]


@pytest.mark.parametrize(
    ("rounds", "text"),
    [((2,), "round 2"), ((2, 3, 4), "rounds 2 to 4"), ((2, 4, 5), "rounds 2, 4, 5")],
)
def test_rounds_that_were_not_seen_are_left_out(rounds: tuple[int, ...], text: str) -> None:
    assert rounds_text(replace(COMPARISON, rounds=rounds)) == text
