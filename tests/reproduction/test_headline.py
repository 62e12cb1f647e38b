"""The headline numbers: which verdict each gets, by what, and how long it takes."""

import time
from decimal import Decimal
from pathlib import Path

import pytest
from analytic import OPTIONS
from report.drawn import assert_labels_apart

from cutlayer.report.drawing import plain_style
from reproduction import headline
from reproduction.claims import Claim, Verdict, judge_reduction
from reproduction.evaluation import (
    EVALUATION,
    INTERPRETATIONS,
    LARGE_MODEL,
    TINY_IMAGENET,
    TWENTY_DEVICES,
    evaluate,
    fit,
)
from reproduction.fig10 import delays_by_links
from reproduction.headline import claims_of, draw


@pytest.fixture(scope="module")
def claims() -> dict[str, Claim]:
    fitted = fit()
    settings = (EVALUATION, TINY_IMAGENET, LARGE_MODEL, TWENTY_DEVICES)
    evaluations = [evaluate(setting, fitted) for setting in settings]
    made = claims_of(*evaluations, delays_by_links(EVALUATION.bandwidth_hz, draws=12))
    named = {claim.name: claim for claim in made}
    assert len(named) == len(made)
    return named


def test_a_reduction_is_judged_by_what_it_leaves() -> None:
    assert judge_reduction(Decimal("92.4"), 92.38) is Verdict.EXACT
    # 7.6 against 7.9 % left, and 10 %, which is 2.6 % of 92.4 and far from it all the same
    assert judge_reduction(Decimal("92.4"), 92.1) is Verdict.WITHIN
    assert judge_reduction(Decimal("92.4"), 90.0) is Verdict.NOT_REPRODUCED
    assert judge_reduction(Decimal("92.4"), 92.4, implied=90.0) is Verdict.CONTRADICTS_ITSELF


@pytest.mark.parametrize(
    ("name", "verdict", "ours"),
    [
        # 1 - 82.85 / 1054.3; the text's own minutes give 92.4 against SL, none gives 66.4
        ("delay reduced, abstract", Verdict.CONTRADICTS_ITSELF, 92.14),
        # the text's 14.75 times leave 6.78 %, not 6.4
        ("communication reduced, abstract", Verdict.CONTRADICTS_ITSELF, 93.32),
        # 1 - 4124.3 / 10154.9 by the accounting of Table III
        ("device memory reduced against FL", Verdict.WITHIN, 59.39),
        # 32 / (0.2 x 13)
        ("compression at 80 % sparsity, 3 bits", Verdict.EXACT, 12.31),
        ("compression at 80 % sparsity, 3 bits with lossless coding", Verdict.WITHIN, 20.79),
        # 78 x 64 x 197 x 768 x 4 / 2^30
        ("activations of an epoch, introduction", Verdict.EXACT, 2.8137),
    ],
)
def test_verdicts(claims: dict[str, Claim], name: str, verdict: Verdict, ours: float) -> None:
    assert claims[name].verdict is verdict
    # half a unit of the last digit given here
    assert claims[name].ours == pytest.approx(ours, abs=0.0051)


def test_reasons_name_the_numbers_that_contradict(claims: dict[str, Claim]) -> None:
    reason = claims["delay reduced, abstract"].reason
    assert all(number in reason for number in ("80.6 %", "91.0 %", "91.6 %", "92.4 %"))
    reason = claims["communication reduced, abstract"].reason
    assert "93.2 %" in reason and "85.1 %" in reason and "15.6 times" in reason


def test_the_planner_s_claim_is_that_of_fig10(claims: dict[str, Claim]) -> None:
    claim = claims["delay reduced by the allocation of bandwidth"]
    assert claim.verdict is Verdict.NOT_REPRODUCED and 5 < claim.ours < 20


def test_picture_files_and_time(tmp_path: Path) -> None:
    begun_s = time.process_time()
    made = headline.make(OPTIONS, tmp_path)
    # 20 s is the promise, without the type checks of a test run
    assert time.process_time() - begun_s < 20
    assert [path.name for path in made.files] == [
        f"headline{ending}" for ending in (".csv", "-claims.csv", ".png", ".svg")
    ]
    table = made.files[0].read_text(encoding="utf-8").splitlines()
    assert len(table) == 1 + 4 * len(INTERPRETATIONS)
    assert "305.2 local steps" in made.setting
    with plain_style():
        fits = {name: fit() for name in INTERPRETATIONS}
        assert_labels_apart(draw(evaluate(EVALUATION), fits, "a setting"))
