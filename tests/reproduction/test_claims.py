"""Verdicts follow from numbers."""

import csv
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reproduction.catalogue import save_verdicts
from reproduction.claims import (
    CLAIM_COLUMNS,
    Claim,
    Reference,
    Verdict,
    claim_rows,
    count_line,
    each_once,
    judge_at_most,
    judge_larger,
    judge_number,
)


@pytest.mark.parametrize(
    ("published", "ours", "verdict"),
    [
        ("12", 12.31, Verdict.EXACT),  # published without decimals: 11.5 to 12.5
        ("12.0", 12.31, Verdict.WITHIN),
        ("12", 11.5, Verdict.EXACT),
        ("12", 11.43, Verdict.WITHIN),
        ("12", 13.33, Verdict.NOT_REPRODUCED),
        ("20", 20.65, Verdict.WITHIN),
        ("4122.92", 4122.9246, Verdict.EXACT),
        ("4122.92", 4122.93, Verdict.WITHIN),
        ("-3", -3.2, Verdict.EXACT),
        ("3", -3.0, Verdict.NOT_REPRODUCED),
        ("12", float("nan"), Verdict.NOT_REPRODUCED),
        ("12", float("inf"), Verdict.NOT_REPRODUCED),
    ],
)
def test_a_number_by_itself(published: str, ours: float, verdict: Verdict) -> None:
    assert judge_number(Decimal(published), ours) is verdict


@pytest.mark.parametrize(
    ("ours", "reference", "verdict"),
    [
        (40.0, Reference(Decimal("12"), 24.0), Verdict.RATIO),  # 20 / 12 = 40 / 24
        (40.0, Reference(Decimal("12"), 30.0), Verdict.ORDERING),
        (40.0, Reference(Decimal("12"), 50.0), Verdict.NOT_REPRODUCED),
        (40.0, Reference(Decimal("0"), 24.0), Verdict.NOT_REPRODUCED),
        (20.0, Reference(Decimal("12"), 50.0), Verdict.EXACT),  # the number itself comes first
        (float("nan"), Reference(Decimal("12"), 24.0), Verdict.NOT_REPRODUCED),
    ],
)
def test_a_number_and_its_reference(ours: float, reference: Reference, verdict: Verdict) -> None:
    assert judge_number(Decimal("20"), ours, reference=reference) is verdict


def test_a_number_that_the_papers_others_deny_contradicts_itself_even_if_met() -> None:
    assert judge_number(Decimal("20"), 20.0, implied=14.75) is Verdict.CONTRADICTS_ITSELF
    assert judge_number(Decimal("20"), 20.0, implied=20.8) is Verdict.EXACT


@given(st.decimals(1, 1000, places=1), st.floats(0.9, 1.1), st.integers(-3, 3))
def test_a_change_of_unit_changes_no_verdict(paper: Decimal, factor: float, power: int) -> None:
    """Metres or millimetres: digits, and what is close, go along."""
    ours = float(paper) * factor
    # at the edges of a verdict (half a last digit, 5 %), rounding may decide
    edges = (0.05, 0.05 * float(paper))
    assume(all(abs(abs(ours - float(paper)) - edge) > 1e-9 * float(paper) for edge in edges))
    other = judge_number(paper.scaleb(power), ours * 10.0**power)
    assert other is judge_number(paper, ours)


@pytest.mark.parametrize(
    ("bound", "ours", "reach", "verdict"),
    [
        ("2", 1.2, 60.0, Verdict.ORDERING),  # kept, and far from the number
        ("2", -3.0, 60.0, Verdict.ORDERING),
        ("2", 1.6, 60.0, Verdict.EXACT),  # 2, as the paper rounds
        ("2", 2.0, 60.0, Verdict.EXACT),
        ("2", 2.4, 60.0, Verdict.NOT_REPRODUCED),  # missed, though it would round to 2
        ("2.0", 1.91, 60.0, Verdict.WITHIN),
        ("2.0", 2.09, 60.0, Verdict.WITHIN),
        ("2", 4.5, 60.0, Verdict.NOT_REPRODUCED),
        ("2", 0.0, 1.5, Verdict.NOT_REPRODUCED),  # nothing was learned that could have been lost
        ("2", float("nan"), 60.0, Verdict.NOT_REPRODUCED),
        ("2", 0.0, float("nan"), Verdict.NOT_REPRODUCED),
    ],
)
def test_a_bound(bound: str, ours: float, reach: float, verdict: Verdict) -> None:
    assert judge_at_most(Decimal(bound), ours, reach=reach) is verdict


@pytest.mark.parametrize(
    ("larger", "smaller", "noise", "verdict"),
    [
        (7.0, 1.0, 2.0, Verdict.ORDERING),
        (2.5, 1.0, 2.0, Verdict.NOT_REPRODUCED),
        (1.0, 1.0, 0.0, Verdict.NOT_REPRODUCED),
        (float("nan"), 1.0, 0.0, Verdict.NOT_REPRODUCED),
    ],
)
def test_an_ordering(larger: float, smaller: float, noise: float, verdict: Verdict) -> None:
    assert judge_larger(larger, smaller, noise=noise) is verdict


def test_lines_and_rows() -> None:
    number = Claim("a", "12x", Decimal("12"), 12.31, "times", Verdict.EXACT, "So.")
    words = Claim("b", "a sharp drop", None, 6.9, "points", Verdict.ORDERING, "Thus.")
    assert number.line() == "a: paper 12x, ours 12.31 times (+2.6 %): exact. So."
    assert words.line() == "b: paper a sharp drop, ours 6.90 points: ordering only. Thus."
    rows = claim_rows([number, words])
    assert all(len(row) == len(CLAIM_COLUMNS) for row in rows)
    assert rows[0][5] == "0.3100" and rows[1][2] == rows[1][5] == ""


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
    assert tuple(rows[0]) == ("figure", *CLAIM_COLUMNS)
    assert [(row["figure"], row["claim"]) for row in rows] == [
        ("fig1", "a"),
        ("fig1", "b"),
        ("headline", "a"),
        ("headline", "c"),
    ]
    assert rows[0]["verdict"] == "within 5 %"
