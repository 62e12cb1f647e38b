"""Table II beside the text and the results: claims, picture, files."""

from pathlib import Path

import pytest
from analytic import made_twice
from report.drawn import assert_labels_apart

from cutlayer.report.drawing import plain_style
from reproduction import table2
from reproduction.claims import Verdict
from reproduction.table2 import implied_bandwidth_mhz, rows


def test_the_minutes_imply_the_texts_band() -> None:
    """A step computes (932.4675 + 1864.9350) / 1024 + (1302.7433 + 2609.3598) / 3072 = 4.005309 s.
    With t = 906.9 / 81.4 it sends for 4.005309 (t - 1) / (1 - t / 14.75) = 166.02263 s; and
    2 x 38.731776 MB on an eighth of 1 MHz at log2(1 + 10^1.7) = 5.67578 bit/s take 873.47773 s."""
    # eight digits of each
    assert implied_bandwidth_mhz() == pytest.approx(873.47773 / 166.02263, rel=1e-6)


def test_verdicts() -> None:
    verdicts = {row.parameter: row.claim.verdict for row in rows() if row.claim is not None}
    against_itself = {"system bandwidth", "device compute", "server compute", "hidden dimension"}
    for name, verdict in verdicts.items():
        expected = Verdict.CONTRADICTS_ITSELF if name in against_itself else Verdict.EXACT
        assert verdict is expected, name
    assert len(verdicts) == 9


def test_table_iii_implies_cut_rank_and_batch() -> None:
    ours = {row.parameter: row.claim.ours for row in rows() if row.claim is not None}
    # what half a unit of the last published digit leaves open: 0.005 of 27.7 MiB a block, of 3.75
    assert ours["cut layer"] == pytest.approx(5, abs=0.005 / 27.7)
    assert ours["LoRA rank"] == pytest.approx(16, abs=16 * 0.005 / 3.75)
    assert ours["batch size"] == 64


def test_files(tmp_path: Path) -> None:
    made, table = made_twice(table2.make, tmp_path, "table2")
    assert table[0]["table_ii"] == "B = 30 MHz" and table[0]["verdict"] == "contradicts itself"
    assert len(table) == len(rows()) and len(made.claims) == 9


def test_labels_stay_apart() -> None:
    with plain_style():
        assert_labels_apart(table2.draw(rows()))
