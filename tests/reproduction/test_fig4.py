"""Fig. 4: the fit against refits and known surfaces, its claims, its picture, and a whole run."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report.drawn import assert_labels_apart

from cutlayer.errors import CutlayerError
from cutlayer.logs import lines_to
from cutlayer.planner.accuracy import CubicFit, cubic_terms, fit_cubic
from cutlayer.report.drawing import plain_style, save_figure
from reproduction import fig4
from reproduction.catalogue import Options
from reproduction.claims import Verdict
from reproduction.evaluation import BY_BITS, BY_SPARSITY, Point
from reproduction.fig4 import BOX, GRID, Seen, claims_of, draw, falling, places, surface

RHO, Q = places(BOX)
coefficients = st.lists(st.floats(-10, 10, allow_subnormal=False), min_size=10, max_size=10).map(
    np.array
)


def bumpy(point: Point) -> float:
    """An accuracy [%] that rises with both; not a sum, which a cubic could follow on the box."""
    return 77 * (1 - 0.4 * math.exp(-point.keep_ratio / 0.0654)) * (1 - 4 * 4.0**-point.bits)


def seen(extra: float = 0.0) -> Seen:
    """A run that measured `bumpy`, with `extra` points more at every other point of the grid."""
    accuracy = {p: bumpy(p) + extra * (i % 2) for i, p in enumerate(GRID)}
    whole, box = surface("all points", GRID, accuracy), surface("the box", BOX, accuracy)
    return Seen(whole, box, test_samples=400)


def flat(*values: float) -> CubicFit:
    """A surface of these coefficients, P1 first."""
    given_values = np.array([*values, *[0.0] * (10 - len(values))])
    return CubicFit(given_values, np.zeros(1), np.zeros(1))


def test_the_grid_is_that_of_fig7_and_a_box() -> None:
    assert set(GRID) == {*BY_SPARSITY, *BY_BITS, *BOX} and len(GRID) == 19
    assert len(BOX) == 16 and Point(0.2, 3) in BOX


def test_the_terms_are_those_of_the_paper() -> None:
    row = cubic_terms(np.array([0.5]), np.array([2.0]))[0]
    assert row.tolist() == [1, 0.5, 2, 0.25, 4, 1, 0.125, 8, 0.5, 2]


@given(coefficients)
def test_a_cubic_is_found_again(wanted: np.ndarray) -> None:
    values = cubic_terms(RHO, Q) @ wanted
    found = fit_cubic(RHO, Q, values)
    # the scaled terms have condition 800, values are below 1e4: 800 x 1e4 x 2e-16
    assert np.abs(found.residuals).max() <= 1e-7
    assert found.at(RHO, Q) == pytest.approx(values, abs=1e-7)


@given(st.floats(-50, 50), st.floats(0.1, 10))
def test_shift_and_scale_of_the_values_are_those_of_the_surface(shift: float, by: float) -> None:
    values = np.array([bumpy(point) for point in BOX])
    before, after = fit_cubic(RHO, Q, values), fit_cubic(RHO, Q, by * values + shift)
    rho, q = np.array([0.15, 0.4]), np.array([2.5, 5.0])
    assert after.at(rho, q) == pytest.approx(by * before.at(rho, q) + shift, abs=1e-7)
    assert after.residuals == pytest.approx(by * before.residuals, abs=1e-7)


def test_a_point_left_out_is_told_by_the_others() -> None:
    values = np.array([bumpy(point) for point in BOX])
    found = fit_cubic(RHO, Q, values)
    for place in range(len(BOX)):
        others = np.arange(len(BOX)) != place
        refit = fit_cubic(RHO[others], Q[others], values[others])
        missed = values[place] - refit.at(RHO[[place]], Q[[place]])[0]
        # 1 / (1 - leverage) is below 100 here
        assert found.left_out[place] == pytest.approx(missed, abs=1e-7)


def test_a_point_that_alone_decides_a_coefficient_cannot_be_left_out() -> None:
    few = [Point(0.2, bits) for bits in (1, 2, 3)] + [Point(1.0, 3)]
    rho, q = places(few)
    assert math.isinf(fit_cubic(rho, q, np.arange(4.0)).left_out[3])


def test_a_training_that_diverged_is_left_aside() -> None:
    values = np.array([bumpy(point) for point in BOX])
    values[5] = np.nan
    known = np.isfinite(values)
    found, without = fit_cubic(RHO, Q, values), fit_cubic(RHO[known], Q[known], values[known])
    assert found.coefficients == pytest.approx(without.coefficients, rel=1e-9)
    assert np.isnan(found.residuals).tolist() == (~known).tolist()
    assert found.mean_square == pytest.approx(without.mean_square, rel=1e-9)
    assert found.mean_square > 1e-3


def test_where_a_surface_falls() -> None:
    box = (0.1, 0.5), (2.0, 6.0)
    rising, _ = falling(flat(0, 1, 1), *box)
    assert (rising.by_keep_ratio, rising.by_bits, rising.either) == (0, 0, 0)
    level, _ = falling(flat(70), *box)
    assert level.either == 0
    bits, _ = falling(flat(0, 1, -1), *box)
    # all but the last of 201 rows have a next one
    assert (bits.by_keep_ratio, bits.by_bits) == (0, 1)
    assert bits.either == pytest.approx(200 / 201, rel=1e-12)
    # highest at 0.3, half way
    hill, _ = falling(flat(0, 0.6, 0, -1), *box)
    assert hill.by_keep_ratio == pytest.approx(0.5, abs=1e-12) and hill.by_bits == 0


def test_verdicts_follow_from_what_was_seen() -> None:
    good = claims_of(seen())
    assert [claim.verdict for claim in good] == [Verdict.ORDERING] * 2
    # 30 points more at every other training: no cubic follows that
    assert claims_of(seen(30.0))[0].verdict is Verdict.NOT_REPRODUCED
    constant = dict.fromkeys(GRID, 70.0)
    box = surface("the box", BOX, constant)
    (claim, _) = claims_of(Seen(box, box, 400))
    assert claim.verdict is Verdict.NOT_REPRODUCED and claim.ours == pytest.approx(0, abs=1e-9)
    assert "could not have been missed" in claim.reason


def test_the_number_is_the_mean_square_of_shares() -> None:
    given_seen = seen()
    residuals = given_seen.box.fit.residuals / 100
    assert claims_of(given_seen)[1].ours == pytest.approx(100 * np.mean(residuals**2), rel=1e-12)


def test_the_picture() -> None:
    with plain_style():
        assert_labels_apart(draw(seen(), "a model on data"))


def test_the_same_picture_gives_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        with plain_style():
            made.append(save_figure(tmp_path / name / "fig4", draw(seen(), "a model")))
    one, other = made
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert one[1].stat().st_size < 300_000


def test_the_whole_figure_on_a_tiny_model(tmp_path: Path, options: Options) -> None:
    said: list[str] = []
    with lines_to(said.append):
        made = fig4.make(options, tmp_path / "out")
    names = ["fig4.csv", "fig4-fit.csv", "fig4-claims.csv", "fig4.png", "fig4.svg"]
    assert [path.name for path in made.files] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    tables = []
    for name in names[:2]:
        with (tmp_path / "out" / name).open(encoding="utf-8") as file:
            tables.append(list(csv.DictReader(file)))
    rows, (whole, box) = tables
    assert [(float(row["keep_ratio"]), int(row["bits"])) for row in rows] == [
        (point.keep_ratio, point.bits) for point in BOX
    ]
    assert (whole["fit"], box["fit"]) == ("all points", "the box")
    wanted = cubic_terms(RHO, Q) @ [float(box[f"P{number}"]) for number in range(1, 11)]
    # six digits of coefficients times terms up to 216, four digits of the fitted share
    assert [float(row["fitted_box"]) for row in rows] == pytest.approx(wanted, abs=5e-3)
    assert "quick" in made.setting and "ViT-B" in made.setting
    assert sum("sparsity" in line for line in said) == len(BOX)


def test_a_wrong_job_leaves_no_directory(tmp_path: Path, options: Options) -> None:
    with pytest.raises(CutlayerError):
        fig4.make(replace(options, cut=99), tmp_path / "out")
    assert not (tmp_path / "out").exists()
