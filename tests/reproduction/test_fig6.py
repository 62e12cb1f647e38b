"""Fig. 6: the curves, the claims, picture, files."""

from pathlib import Path

import pytest
from analytic import made_twice
from report.drawn import assert_labels_apart

from cutlayer.report.drawing import plain_style
from reproduction import fig6
from reproduction.claims import Verdict
from reproduction.fig6 import DEVICE_MIB, SMALL_DEVICE_MIB, curves_of, draw

CURVES = curves_of()


def test_curves_pass_where_they_should() -> None:
    assert CURVES.table[4] == pytest.approx(4122.92, rel=5e-4)  # activations fit to 0.04 %
    assert CURVES.table[11] == pytest.approx(9896.69, rel=6e-3)  # and to 0.54 %
    assert CURVES.equations[4] == pytest.approx(2716, abs=0.5)
    for curve in (CURVES.table, CURVES.equations, CURVES.keep, CURVES.checkpoint, CURVES.micro):
        assert len(curve) == 12 and list(curve) == sorted(curve)


def test_what_fits() -> None:
    fits = [CURVES.fitting(CURVES.table, limit) for limit in (DEVICE_MIB, SMALL_DEVICE_MIB)]
    assert fits == [9, 4]
    assert CURVES.fitting(CURVES.equations, DEVICE_MIB) == 12
    # a tenth of the paper's 4122.92 MiB at its cut
    assert CURVES.micro[4] < 420


def test_verdicts() -> None:
    proportional, exceeds, equations = fig6.claims_of(CURVES)
    assert proportional.verdict is Verdict.EXACT
    assert exceeds.verdict is Verdict.ORDERING and "9 blocks fit" in exceeds.reason
    assert equations.verdict is Verdict.CONTRADICTS_ITSELF


def test_files(tmp_path: Path) -> None:
    made, rows = made_twice(fig6.make, tmp_path, "fig6")
    assert [row["blocks"] for row in rows] == [str(blocks) for blocks in range(1, 13)]
    assert len(made.claims) == 3


def test_labels_stay_apart() -> None:
    with plain_style():
        assert_labels_apart(draw(CURVES, fig6.SETTING))
