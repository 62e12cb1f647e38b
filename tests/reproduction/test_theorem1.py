"""Theorem 1's figure: SGD on quadratics, the interpretations of (14), claims, picture, files."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report.drawn import assert_labels_apart

from cutlayer.logs import lines_to
from cutlayer.report.drawing import plain_style, save_figure
from reproduction import theorem1
from reproduction.catalogue import Options
from reproduction.claims import Verdict
from reproduction.convergence import Job, Quadratics, train
from reproduction.theorem1 import (
    NOISY,
    QUICK,
    Biased,
    Drift,
    Plain,
    as_product,
    biased_case,
    claims_of,
    draw,
    drift_case,
    first_round_bounds,
    plain_case,
)

OPTIONS = Options(data="none", model="none", cut=1, rounds=None, seeds=1, quick=True)
Cases = tuple[Plain, Biased, Drift]


@pytest.fixture(scope="module")
def cases() -> Cases:
    return plain_case(QUICK), biased_case(QUICK), drift_case(QUICK)


def test_quadratics_by_hand() -> None:
    # F = (1/4) (1 (x - 1)^2 + 3 (x + 1)^2), least where x - 1 + 3 x + 3 = 0: at -0.5; curvature 2
    problem = Quadratics(np.array([[1.0], [3.0]]), np.array([[1.0], [-1.0]]))
    assert problem.optimum.tolist() == [-0.5]
    assert problem.smoothness == problem.pl_constant == 2.0
    # from 0 to 1.5: half of 2 * 2^2
    assert problem.gap(np.array([[-0.5], [1.5]])).tolist() == [0.0, 4.0]
    assert problem.gap(problem.start(1.0)[None])[0] == pytest.approx(1.0)


def test_descent_by_hand() -> None:
    # curvature 1, eta 0.5: x halves each step, the gap is a quarter; two local steps, a sixteenth
    problem = Quadratics(np.ones((2, 1)), np.zeros((2, 1)))
    for steps in (1, 2):
        gap = train(problem, Job(0.5, 2, noise=0.0, local_steps=steps), 1, 0).gap
        assert gap == pytest.approx([1.0, 0.25**steps, 0.25 ** (2 * steps)], rel=1e-12)


def test_devices_drift_with_local_steps() -> None:
    """Very many local steps lead each device to its own minimum: the mean of minima, not F's."""
    problem = Quadratics(np.array([[1.0], [3.0]]), np.array([[1.0], [-1.0]]))
    gap = train(problem, Job(0.3, 1, noise=0.0, local_steps=200), 1, 0).gap
    # mean of 1 and -1 is 0, 0.5 from the optimum: half of 2 * 0.25; 0.7^200 is nothing
    assert gap[1] == pytest.approx(0.25, rel=1e-12)


def test_whole_gradients_are_off_by_their_noise_alone() -> None:
    problem = Quadratics(np.ones((4, 3)), np.zeros((4, 3)))
    trained = train(problem, Job(0.1, 5, noise=0.3), 8, 0)
    assert trained.bias.tolist() == [0.0] * 5 and trained.variance.tolist() == [0.3] * 5


def test_top_k_has_the_bias_of_what_it_drops() -> None:
    """Optimum (14.5, -14.5), start sqrt 2 beyond it in the first value.

    Gradients (sqrt 2 - 15.5, -15.5) and (sqrt 2 + 15.5, 15.5): one drops its first value, the other
    its second, so the mean lacks (sqrt 2 - 15.5) / 2 and 15.5 / 2.
    """
    problem = Quadratics(np.ones((2, 2)), np.array([[30.0, 1.0], [-1.0, -30.0]]))
    trained = train(problem, Job(0.1, 1, noise=0.0, kept=1), 1, 0)
    by_hand = ((math.sqrt(2) - 15.5) / 2) ** 2 + 7.75**2
    assert trained.bias[0] == pytest.approx(by_hand, rel=1e-12)
    assert trained.variance[0] == pytest.approx(0.0, abs=1e-20)


def test_top_k_sends_the_noise_of_what_it_keeps() -> None:
    # the first of two values is kept by far, with half the noise
    problem = Quadratics(np.ones((2, 2)), np.array([[30.0, 0.0], [-30.0, 0.0]]))
    trained = train(problem, Job(0.1, 1, noise=0.4, kept=1), 8, 0)
    # the larger of two variances from 8 * 63 draws each: errors of sqrt(2 / 504) = 6 %
    assert trained.variance[0] == pytest.approx(0.2, rel=0.3)


def test_the_product_by_hand() -> None:
    # 0.85^200 + sum 0.85^t 0.0625 / (200 - t) = 0.0021464
    plain = plain_case(QUICK)
    assert plain.product[0] == 1.0
    assert plain.product[1] == pytest.approx(0.85 + 0.0625, rel=1e-12)
    # 0.85^2 + 0.0625 / 2 + 0.85 * 0.0625
    assert plain.product[2] == pytest.approx(0.7225 + 0.03125 + 0.053125, rel=1e-12)
    assert plain.product[200] == pytest.approx(0.0021464, rel=1e-4)
    assert np.array_equal(plain.product, as_product(plain.corrected, NOISY.rounds))


def test_the_first_round_by_hand() -> None:
    # 0.85 + 0.25 * 4 / 64 / 2 and 0.85 + 0.25 * 4 / 2
    assert first_round_bounds() == pytest.approx((0.8578125, 1.35), rel=1e-12)


def test_one_round_alone_is_what_it_should_be(cases: Cases) -> None:
    """(1 - 0.5 * 0.2)^2 + eta^2 phi^2 mean(h) / 2 = 0.81 + 0.25 * 4 * 0.6 / 2 = 1.11."""
    # 2000 runs; a run's gap has a deviation of about 0.5
    assert cases[0].first_round_alone == pytest.approx(1.11, abs=5 * 0.5 / math.sqrt(2000))


def test_verdicts_follow(cases: Cases) -> None:
    verdicts = [claim.verdict for claim in claims_of(*cases)]
    assert verdicts == [
        Verdict.CONTRADICTS_ITSELF,
        Verdict.EXACT,
        Verdict.CONTRADICTS_ITSELF,
        *[Verdict.NOT_REPRODUCED] * 5,
    ]


def test_verdicts_would_follow_otherwise(cases: Cases) -> None:
    plain, biased, drift = cases
    kept = replace(plain, product=plain.corrected.gap, sgd=0.5 * plain.corrected.gap)
    good = replace(biased, sgd=0.5 * biased.published.gap)
    steady = replace(drift, sgd=dict.fromkeys(drift.sgd, 0.5 * drift.published.gap))
    first, *_, limit, compressed, five, twenty, most = claims_of(kept, good, steady)
    assert first.verdict is Verdict.EXACT and "stays within it" in first.reason
    assert limit.verdict is Verdict.NOT_REPRODUCED
    assert [c.verdict for c in (compressed, five, twenty, most)] == [Verdict.ORDERING] * 4
    above = claims_of(plain, replace(biased, sgd=1.1 * biased.corrected.gap), drift)[4]
    assert "does not hold" in above.reason


def test_reasons_tell_the_numbers(cases: Cases) -> None:
    product, unrolled, *_, compressed, five, _, _ = claims_of(*cases)
    assert "41.67 %" in product.reason and "from round" in product.reason
    assert f"{100 * cases[0].sgd[-1]:.2f} % at the end" in unrolled.reason
    assert "holds in every round" in compressed.reason and "Top-2 of 10" in compressed.name
    assert "5 local steps" in five.name


def test_the_pictures_labels_stay_apart(cases: Cases) -> None:
    with plain_style():
        assert_labels_apart(draw(*cases, "SGD on quadratics"))


def test_the_same_picture_gives_the_same_bytes(tmp_path: Path, cases: Cases) -> None:
    made = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        with plain_style():
            made.append(save_figure(tmp_path / name / "theorem1", draw(*cases, "SGD")))
    one, other = made
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_the_whole_figure(tmp_path: Path) -> None:
    said: list[str] = []
    with lines_to(said.append):
        made = theorem1.make(OPTIONS, tmp_path / "out")
    names = ["theorem1.csv", "theorem1-claims.csv", "theorem1.png", "theorem1.svg"]
    assert [path.name for path in made.files] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    with made.files[0].open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["round"]) for row in rows] == list(range(201))
    assert float(rows[200]["bound"]) == pytest.approx(5 / 12, rel=1e-5)
    assert float(rows[200]["product"]) == pytest.approx(0.00215, abs=5e-6)
    assert "quick" in made.setting and len(made.claims) == 8 and len(said) == 1
