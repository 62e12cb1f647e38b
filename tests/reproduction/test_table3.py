"""Table III: every row, the claims, picture, files."""

from pathlib import Path

import pytest
from analytic import made_twice
from report.test_figures import assert_labels_apart

from cutlayer.report.drawing import plain_style
from reproduction import table3
from reproduction.claims import Verdict
from reproduction.table3_columns import ROWS, columns
from reproduction.table3_drawing import draw


def test_printed_totals_are_the_sums_of_their_rows() -> None:
    for column in columns():
        total = sum(column.printed[row] for row in ROWS[:-1])
        # each of four rows is rounded to 0.01
        assert float(total - column.printed["total"]) == pytest.approx(0, abs=0.02)


def test_verdicts() -> None:
    verdicts = {claim.name: claim.verdict for claim in table3.claims_of(columns())}
    exact = (
        "input",
        "model and adapters, split, 5 blocks",
        "model and adapters, FL-LoRA",
        "model and adapters, FL",
        "optimizer, split, 5 blocks",
        "optimizer, FL-LoRA",
    )
    assert {verdicts.pop(name) for name in exact} == {Verdict.EXACT}
    equations = [name for name in verdicts if "equations" in name]
    assert {verdicts.pop(name) for name in equations} == {Verdict.CONTRADICTS_ITSELF}
    assert verdicts.pop("total, FL-LoRA over split") is Verdict.EXACT
    assert set(verdicts.values()) == {Verdict.WITHIN} and len(verdicts) == 9


def test_files(tmp_path: Path) -> None:
    _, rows = made_twice(table3.make, tmp_path, "table3")
    assert len(rows) == 3 * len(ROWS)
    total = next(row for row in rows if row["row"] == "total")
    assert total["printed_mib"] == "4122.92"
    assert float(total["physical_mib"]) < float(total["printed_mib"])
    assert float(total["equations_mib"]) == pytest.approx(2716, abs=0.5)


def test_labels_stay_apart() -> None:
    with plain_style():
        assert_labels_apart(draw(columns(), table3.SETTING))
