"""One table of many figures' verdicts."""

import csv
from decimal import Decimal
from pathlib import Path

from reproduction.claims import Claim, Verdict
from reproduction.verdicts import COLUMNS, count_line, each_once, save_verdicts


def claim(name: str, verdict: Verdict) -> Claim:
    return Claim(name, "2x", Decimal("2"), 2.1, "times", verdict, "Because.")


CLAIMS = {
    "fig1": (claim("a", Verdict.WITHIN), claim("b", Verdict.EXACT)),
    "headline": (claim("a", Verdict.WITHIN), claim("c", Verdict.WITHIN)),
}


def test_a_claim_of_two_figures_is_said_once() -> None:
    assert count_line(CLAIMS).startswith(
        "3 claims of the paper: 1 exact, 2 within 5 %, 0 ratio only"
    )
    assert [f"{name}: {one.line()}" for name, one in each_once(CLAIMS)] == [
        "fig1: a: paper 2x, ours 2.10 times (+5.0 %): within 5 %. Because.",
        "fig1: b: paper 2x, ours 2.10 times (+5.0 %): exact. Because.",
        "headline: c: paper 2x, ours 2.10 times (+5.0 %): within 5 %. Because.",
    ]


def test_the_file_has_every_figure_s(tmp_path: Path) -> None:
    path = save_verdicts(tmp_path / "verdicts.csv", CLAIMS)
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["figure"], row["claim"]) for row in rows] == [
        ("fig1", "a"),
        ("fig1", "b"),
        ("headline", "a"),
        ("headline", "c"),
    ]
    assert rows[0]["verdict"] == "within 5 %"
