"""Fig. 8: volumes against the paper's, what each way of compressing leaves, picture and files."""

from pathlib import Path

import pytest
from analytic import made_twice
from report.drawn import assert_labels_apart

from cutlayer.report.drawing import plain_style
from reproduction import fig8
from reproduction.claims import Verdict
from reproduction.evaluation import (
    CLAIMED,
    EVALUATION,
    Evaluation,
    Point,
    coded,
    evaluate,
    methods,
    nearest_to,
)
from reproduction.fig8 import SFT_GIGABYTES, UNCOMPRESSED_GIGABYTES, claims_of, draw, steps_of


@pytest.fixture(scope="module")
def cifar() -> Evaluation:
    return evaluate(EVALUATION)


def test_ways_of_compressing_by_hand() -> None:
    # 20 % kept: of 32-bit values with a 10-bit column; 3 bits and a sign; both
    bits = {way.name: way.bits for way in methods()}
    assert bits["no compression"] == 32
    assert bits["sparsification"] == pytest.approx(0.2 * 42)
    assert bits["quantisation"] == 4
    assert bits["both, indexed columns"] == pytest.approx(0.2 * 14)
    # entropy of where a fifth is, 0.722 bits, is a bound on gaps; 0.2 x 4 bits for the values
    assert 0.722 + 0.8 < bits["both, lossless coding"] < 0.722 * 1.04 + 0.8
    assert bits["same values, paper-rans"] < bits["both, lossless coding"]
    percents = [way.percent for way in methods()]
    assert percents == sorted(percents, reverse=True)
    assert methods()[0].ratio == 1 and methods()[2].ratio == 8


def test_the_codec_s_points() -> None:
    assert coded(CLAIMED).ratio == pytest.approx(20.8, abs=0.05)
    point, way = nearest_to(6.8)
    assert point == Point(0.2, 6) and way.percent == pytest.approx(6.68, abs=0.01)
    assert nearest_to(coded(CLAIMED).percent)[0] == CLAIMED


def test_the_volumes_are_of_other_epochs_than_the_minutes(cifar: Evaluation) -> None:
    sl, times, uncompressed, sent = claims_of(cifar)
    assert sl.verdict is times.verdict is Verdict.CONTRADICTS_ITSELF
    assert uncompressed.verdict is sent.verdict is Verdict.WITHIN
    # 144.76 / 6.7 and 14.75 times that
    assert pytest.approx(21.606, abs=0.001) == SFT_GIGABYTES
    assert pytest.approx(318.69, abs=0.01) == UNCOMPRESSED_GIGABYTES
    # 318.69 GB at 0.6197 GB a step of all devices
    assert steps_of(UNCOMPRESSED_GIGABYTES) == pytest.approx(514.3, abs=0.1)
    assert sl.ours == pytest.approx(190, abs=1)
    assert "807 min" in sl.reason and "867" in sl.reason and "1535 min" in times.reason


def test_picture_and_files(cifar: Evaluation, tmp_path: Path) -> None:
    with plain_style():
        assert_labels_apart(draw(cifar, methods(), 60.7, "a setting"))
    made, rows = made_twice(fig8.make, tmp_path, "fig8")
    assert len(made.claims) == 4
    whole = {row["name"]: float(row["gigabytes"]) for row in rows if row["payload"] == "all"}
    parts = [row for row in rows if row["panel"] == "a" and row["payload"] != "all"]
    for name, volume in whole.items():
        some = [float(row["gigabytes"]) for row in parts if row["name"] == name]
        # each is rounded to a millionth
        assert sum(some) == pytest.approx(volume, abs=1e-5)
    assert sum(row["panel"] == "b" for row in rows) == len(methods())
