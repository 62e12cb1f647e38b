"""Fig. 7: its grid, its claims from given numbers, its picture, and a whole run on a tiny model."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
from report.drawn import assert_labels_apart

from cutlayer.codec.presets import paper
from cutlayer.config.training import SgdOptimizer
from cutlayer.errors import CutlayerError
from cutlayer.logs import lines_to
from cutlayer.profiling.measure import train_through
from cutlayer.report.drawing import plain_style, save_figure
from reproduction import fig7
from reproduction.catalogue import Options
from reproduction.claims import Verdict
from reproduction.evaluation import (
    BY_BITS,
    BY_SPARSITY,
    CLAIMED,
    GRID,
    QUICK_GRID,
    UNCOMPRESSED,
    Point,
    codecs_of,
)
from reproduction.fig7 import Seen, claims_of, draw, indexed_ratio
from reproduction.training import config_of, job_starts

ACCURACY = (77.0, 74.0, 76.5, 76.0, 75.5, 66.0, 58.0, 64.0, 70.0, 76.0, 76.5)


def seen(**accuracy_at: float) -> Seen:
    """What a run may have seen; `p90=70.0` is the accuracy at 90 % sparsity and 3 bits."""
    accuracy = dict(zip(GRID, ACCURACY, strict=True))
    for name, value in accuracy_at.items():
        accuracy[Point(round(1 - int(name[1:]) / 100, 2), 3)] = value
    bits = {point: 32.0 if point == UNCOMPRESSED else 1.55 for point in GRID}
    plus = {point: math.nan if point == UNCOMPRESSED else 0.92 for point in GRID}
    return Seen(10.0, accuracy, bits, plus, width=384, test_samples=10_000)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub, and a cache that holds nothing."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))


def test_the_grid_is_the_papers_two_curves() -> None:
    assert [point.sparsity for point in BY_SPARSITY] == [0, 50, 70, 80, 90, 95]
    assert [point.levels for point in BY_BITS] == [1, 3, 7, 15, 63]
    assert len(GRID) == 11 and set(QUICK_GRID) < set(GRID)
    assert CLAIMED in BY_SPARSITY and CLAIMED in BY_BITS


def test_a_points_codecs_are_papers_both_ways() -> None:
    pair = codecs_of(Point(0.3, 4))
    assert pair.up.codec == paper(0.3, 15).up  # type: ignore[attr-defined]
    assert pair.down == paper(0.3, 15).down


def test_the_papers_ratio_is_its_arithmetic() -> None:
    # AUDIT: 32 / (0.2 * 13) = 12.3077; with a sign 32 / (0.2 * 14) = 11.4286
    assert indexed_ratio(768, CLAIMED, sign=False) == pytest.approx(32 / 2.6, rel=1e-12)
    assert indexed_ratio(768, CLAIMED, sign=True) == pytest.approx(32 / 2.8, rel=1e-12)
    assert indexed_ratio(512, CLAIMED, sign=False) == pytest.approx(32 / 2.4, rel=1e-12)


def test_verdicts_follow_from_what_was_seen() -> None:
    def verdicts(given: Seen) -> list[Verdict]:
        return [claim.verdict for claim in claims_of(given)]

    paper_like = [Verdict.EXACT, Verdict.ORDERING, Verdict.EXACT, Verdict.WITHIN]
    assert verdicts(seen()) == paper_like
    assert verdicts(seen(p80=74.5, p90=64.0))[0] is Verdict.NOT_REPRODUCED
    assert verdicts(seen(p90=75.0))[1] is Verdict.NOT_REPRODUCED
    assert verdicts(seen(p80=math.nan))[:2] == [Verdict.NOT_REPRODUCED] * 2
    assert verdicts(replace(seen(), before=76.0))[0] is Verdict.NOT_REPRODUCED
    few = replace(seen(p90=74.0), test_samples=100)
    # 1.5 points from 80 to 90 %, 0.3 per 10 % before; 100 samples tell 7 points apart
    assert verdicts(few)[1] is Verdict.NOT_REPRODUCED


def test_reasons_tell_the_numbers() -> None:
    lost, drop, indexed, coded = claims_of(seen())
    assert "77.0 % uncompressed" in lost.reason and "75.5 % compressed" in lost.reason
    assert lost.difference == pytest.approx(-0.5)
    assert "0.33 points lost per 10 %" in drop.reason
    assert "13.33" in indexed.reason and "width of 384" in indexed.reason
    assert f"{32 / 0.92:.1f}x" in coded.reason


def test_a_bound_met_by_chance_is_said_to_be_unsure() -> None:
    lost, *_ = claims_of(replace(seen(), test_samples=100))
    assert "too close to the bound" in lost.reason
    assert "too close" not in claims_of(seen(p80=60.0))[0].reason


@pytest.mark.parametrize(
    "given",
    [
        seen(),
        seen(p95=math.nan),
        seen(p0=66.4, p50=74.2, p70=75.4, p80=72.9, p90=69.5, p95=59.5),  # a peak
        seen(p0=76.0, p50=70.0, p70=74.0, p80=73.0, p90=72.0, p95=71.0),  # a valley
    ],
    ids=["falling", "one diverged", "peak", "valley"],
)
def test_the_pictures_labels_stay_apart(given: Seen) -> None:
    spreads = {point: (value, value) for point, value in given.accuracy.items()}
    with plain_style():
        assert_labels_apart(draw(given, spreads, "a model on data"))


def test_the_same_picture_gives_the_same_bytes(tmp_path: Path) -> None:
    given = seen()
    spreads = {point: (value - 1, value + 1) for point, value in given.accuracy.items()}
    made = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        with plain_style():
            made.append(save_figure(tmp_path / name / "fig7", draw(given, spreads, "a model")))
    one, other = made
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_a_training_that_diverges_is_a_result(options: Options) -> None:
    config = config_of(options, fig7.QUICK_SIZE)
    hot = SgdOptimizer(learning_rate=1e12)
    (start,) = job_starts(config.model_copy(update={"optimizer": hot}), [0])
    trained = train_through(replace(start, rounds=3), codecs_of(CLAIMED))
    assert math.isnan(trained.accuracy) and math.isnan(trained.bits_up)


def test_the_whole_figure_on_a_tiny_model(tmp_path: Path, options: Options) -> None:
    said: list[str] = []
    with lines_to(said.append):
        made = fig7.make(replace(options, seeds=2), tmp_path / "out")
    names = ["fig7.csv", "fig7-claims.csv", "fig7.png", "fig7.svg"]
    assert [path.name for path in made.files] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    with (tmp_path / "out" / "fig7.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["0"] * 4 + ["1"] * 4
    assert sum("80 % sparsity, 3 bits" in line for line in said) == 2
    assert "quick" in made.setting and "ViT-B" in made.setting
    up = [float(row["bits_up"]) for row in rows[:4]]
    assert up[0] == 32.0
    assert up[0] > up[1] > up[2] > up[3]
    assert all(float(row["bits_up_paper_rans"]) > 0 for row in rows[1:4])


def test_a_wrong_job_leaves_no_directory(tmp_path: Path, options: Options) -> None:
    for wrong in (replace(options, cut=99), replace(options, data="no-such-data")):
        with pytest.raises(CutlayerError):
            fig7.make(wrong, tmp_path / "out")
    assert not (tmp_path / "out").exists()
