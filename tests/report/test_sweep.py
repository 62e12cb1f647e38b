"""Statistics of a sweep against scipy and numbers worked out by hand, its tables and its page."""

import math
from pathlib import Path

import pytest
from scipy import stats

from cutlayer.report.sweep import (
    Sweep,
    cell_table,
    difference_table,
    estimate,
    holm,
    paired,
    run_rows,
)
from cutlayer.report.sweep_page import mean_curve, sweep_page


def test_an_interval_is_students() -> None:
    values = [0.71, 0.74, 0.70, 0.77]
    found = estimate(values)
    assert found is not None
    low, high = stats.t.interval(0.95, 3, sum(values) / 4, stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.margin == pytest.approx((high - low) / 2)


def test_one_seed_has_no_interval_and_none_no_mean() -> None:
    one = estimate([0.5])
    assert one is not None and (one.mean, one.margin) == (0.5, None)
    assert estimate([]) is None
    assert estimate([0.5, math.nan]) is None


def test_differences_are_of_the_seeds_that_both_have() -> None:
    found = paired({0: 0.8, 1: 0.9, 2: 0.7, 5: 0.1}, {0: 0.7, 1: 0.7, 2: 0.65, 4: 0.9})
    assert found is not None and found.difference.count == 3
    assert found.difference.mean == pytest.approx((0.1 + 0.2 + 0.05) / 3)
    assert found.p == pytest.approx(stats.ttest_rel([0.8, 0.9, 0.7], [0.7, 0.7, 0.65]).pvalue)
    assert paired({0: 0.8}, {1: 0.8}) is None
    alone = paired({0: 0.8}, {0: 0.7})
    assert alone is not None and alone.p is None


def test_many_tests_are_held_against_each_other() -> None:
    # 4 x 0.01; then 3 x 0.02 and no less than before; and so on
    assert holm([0.04, 0.01, None, 0.02, 0.03]) == pytest.approx([0.06, 0.04, None, 0.06, 0.06])


def test_a_front_holds_what_nothing_beats(sweep: Sweep) -> None:
    assert [(front.cost.key, [cell.label for cell in front.cells]) for front in sweep.fronts] == [
        ("delay_s", ["few", "many"]),
        ("sent_bytes", ["few", "many"]),
    ]


def test_a_target_that_some_seeds_miss_has_no_mean(sweep: Sweep) -> None:
    """The mean of those that reach it would be too good."""
    table = cell_table(sweep)
    rows = {row[0]: dict(zip(table.headings, row, strict=True)) for row in table.rows}
    (target,) = [name for name in table.headings if name.startswith("delay to target")]
    assert rows["few"][target] == "not reached"
    assert rows["dear"][target] == "2 of 3 reached"
    assert "±" in rows["many"]["accuracy, last round [%]"]
    assert rows["big"][target] == "does not fit"


def test_differences_to_the_baseline(sweep: Sweep) -> None:
    table = difference_table(sweep, sweep.quantity("accuracy_final"))
    assert [row[0] for row in table.rows] == ["many", "dear"]
    many, dear = table.rows
    assert many[2].startswith("+10.3") and many[-1] == "yes"
    found = stats.ttest_rel([0.80, 0.81, 0.79], [0.70, 0.72, 0.71]).pvalue
    assert dear[3] == f"{found:.3f}"


def test_a_row_a_run(sweep: Sweep) -> None:
    rows = run_rows(sweep)
    assert [(row["cell"], row["seed"], row["fits"]) for row in rows[2:4]] == [
        ("few", 2, "yes"),
        ("many", 0, "yes"),
    ]
    assert (rows[-1]["cell"], rows[-1]["seed"], rows[-1]["fits"]) == ("big", None, "no")
    assert all(list(row) == list(rows[0]) for row in rows)


def test_a_mean_curve_has_a_band(sweep: Sweep) -> None:
    curve = mean_curve(sweep.cells[1], lambda point: float(point.round))
    assert curve.means[0] == pytest.approx(0.1)
    assert curve.means[-1] == pytest.approx(0.8133, abs=1e-4)
    assert (curve.lows[1:] < curve.means[1:]).all() and (curve.highs[1:] > curve.means[1:]).all()


def test_the_page_says_all_of_it(sweep: Sweep, tmp_path: Path) -> None:
    page = sweep_page(sweep, {"<few>, seed 9": "it diverged"})
    assert "&lt;few&gt;, seed 9 failed: it diverged" in page
    assert "big does not fit" in page
    assert page.count("<svg") == 2
    assert "Against few: accuracy, last round" in page
    assert sweep_page(sweep, {"<few>, seed 9": "it diverged"}) == page
