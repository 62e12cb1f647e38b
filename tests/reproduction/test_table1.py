"""Table I: arithmetic, claims, picture, files."""

from pathlib import Path

import pytest
from analytic import made_twice
from report.drawn import assert_labels_apart

from cutlayer.report.drawing import plain_style
from reproduction import table1
from reproduction.claims import Verdict


def test_verdicts() -> None:
    found = {claim.name: claim for claim in table1.claims_of()}
    assert found["memory of PaLM"].verdict is Verdict.WITHIN
    assert found["memory of PaLM"].ours == pytest.approx(2160)
    assert found["memory of Jetson Nano"].verdict is Verdict.NOT_REPRODUCED
    compared = found["the smallest model on the largest device"]
    assert compared.verdict is Verdict.ORDERING and "28 GB of weights against 16" in compared.reason
    others = {"memory of PaLM", "memory of Jetson Nano", compared.name}
    assert {c.verdict for name, c in found.items() if name not in others} == {Verdict.EXACT}


def test_files(tmp_path: Path) -> None:
    made, rows = made_twice(table1.make, tmp_path, "table1")
    assert [row["name"] for row in rows][:2] == ["Raspberry Pi-4B", "Jetson Nano"]
    assert len(rows) == 8 and len(made.claims) == 9


def test_labels_stay_apart() -> None:
    with plain_style():
        assert_labels_apart(table1.draw())
