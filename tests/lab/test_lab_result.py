"""What a lab prints and writes."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from cutlayer.lab.lab import (
    comparison_certainty,
    comparison_verdict,
    phase_table,
    round_table,
    rounds_text,
    write_comparison,
)
from cutlayer.lab.prediction import LabComparison, PhaseComparison, RoundComparison

LINES = (
    PhaseComparison("device forward", 2.0, 2.5, "rounds before"),
    PhaseComparison("barrier", 0.0, 1.0, "timeline"),
)
ROUNDS = (
    RoundComparison(3, 10.0, (9.0, 12.0), 11.0, 11.0),
    RoundComparison(4, 10.0, (9.0, 11.0), 11.0, 12.1),
)
COMPARISON = LabComparison(LINES, PhaseComparison("round", 10.0, 11.5, "all of it"), ROUNDS)


def printed(table: Table) -> str:
    console = Console(width=80, force_terminal=False)
    with console.capture() as said:
        console.print(table)
    return said.get()


def test_the_table_has_every_phase_and_the_round() -> None:
    text = printed(phase_table(COMPARISON))
    assert "+25.0 %" in text and "+15.0 %" in text and "barrier" in text
    assert "medians of rounds 3 to 4" in text


def test_the_table_of_rounds_has_their_intervals() -> None:
    text = printed(round_table(COMPARISON))
    assert "90 % interval" in text and "9.00 s to 12.0 s" in text
    # the timeline erred by 0 % and 10 %, the predictions by 10 % and 21 %
    assert "+0.0 %" in text and text.count("+10.0 %") == 2 and "+21.0 %" in text


def test_the_verdict_is_computed() -> None:
    assert comparison_verdict(COMPARISON).endswith("+15.0 %, not within 10 %")
    near = replace(COMPARISON, round=PhaseComparison("round", 10.0, 9.5, "all of it"))
    assert comparison_verdict(near).endswith("-5.0 %, within 10 %")


def test_single_rounds_are_not_hidden() -> None:
    assert comparison_certainty(COMPARISON) == (
        "a round differs by 15.5 % on average, by 5.0 % if its own seconds of computing are given;"
        " 1 of 2 rounds within their intervals"
    )
    unknown = replace(COMPARISON, rounds=tuple(replace(one, interval_s=None) for one in ROUNDS))
    assert comparison_certainty(unknown).endswith("are given")
    assert "+21.0 %" in printed(round_table(unknown))


def test_what_is_written_reads_back_and_repeats(tmp_path: Path) -> None:
    phases, single, *pictures = write_comparison(COMPARISON, tmp_path)
    with phases.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["phase"] for row in rows] == ["device forward", "barrier", "round"]
    assert float(rows[0]["difference"]) == 0.25
    # nothing was predicted: there is nothing to divide by
    assert rows[1]["difference"] == ""
    with single.open(encoding="utf-8", newline="") as file:
        first = next(csv.DictReader(file))
    assert {name: float(text) for name, text in first.items()} == pytest.approx(
        {
            "round": 3,
            "predicted_s": 10.0,
            "low_s": 9.0,
            "high_s": 12.0,
            "measured_s": 11.0,
            "difference": 0.1,
            "timeline_difference": 0.0,
        }
    )
    drawn = [path.read_bytes() for path in pictures]
    write_comparison(COMPARISON, tmp_path)
    assert drawn == [path.read_bytes() for path in pictures]
    assert [path.suffix for path in pictures] == [".png", ".svg"]


@pytest.mark.parametrize(
    ("rounds", "text"),
    [((2,), "round 2"), ((2, 3, 4), "rounds 2 to 4"), ((2, 4, 5), "rounds 2, 4, 5")],
)
def test_rounds_that_were_not_seen_are_left_out(rounds: tuple[int, ...], text: str) -> None:
    seen = tuple(replace(ROUNDS[0], number=number) for number in rounds)
    assert rounds_text(replace(COMPARISON, rounds=seen)) == text
