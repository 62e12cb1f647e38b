"""Numbers in words."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.report.wording import (
    bar_span,
    byte_scale,
    column,
    counted,
    decimals_for,
    factor_text,
    score_change,
    score_text,
    share_text,
    time_scale,
    times_text,
)
from cutlayer.training.records import Score


@given(st.lists(st.floats(0, 9999), min_size=1), st.sampled_from([1e-3, 1.0, 60.0]))
def test_a_column_is_narrow_and_rounds_to_two_digits_or_more(
    values: list[float], unit_size: float
) -> None:
    texts = column([value * unit_size for value in values], unit_size)
    for value, text in zip(values, texts, strict=True):
        assert len(text) <= 4
        decimals = len(text.partition(".")[2])
        # half a unit of the last decimal, and the rounding of one multiplication and division
        assert abs(float(text) - value) <= 0.5 * 10.0**-decimals + 1e-9
        assert decimals == 2 or float(text) == 0 or len(text.replace(".", "").lstrip("0")) >= 2


def test_a_column_of_like_numbers_is_aligned() -> None:
    assert column([9.5, 10.04, 31.26]) == ["9.5", "10.0", "31.3"]
    assert column([120.4, 0.52, 0.0, 9.96]) == ["120", "0.52", "0.00", "9.96"]


def test_a_missing_value_is_a_dash_and_a_diverged_one_is_named() -> None:
    assert column([None, 1.0, math.nan, math.inf]) == ["-", "1.00", "nan", "inf"]


@given(st.floats(1e-6, 1e12))
def test_scales_leave_few_digits_before_the_point(largest: float) -> None:
    assert 0 < largest / time_scale(largest).unit_size < 1e4 or time_scale(largest).unit == "h"
    scaled = largest / byte_scale(largest).unit_size
    assert scaled < 1024 or byte_scale(largest).unit == "GiB"
    assert scaled >= 1 or byte_scale(largest).unit == "B"


@pytest.mark.parametrize(("value", "decimals"), [(9.99, 2), (9.999, 1), (99.94, 1), (99.96, 0)])
def test_decimals_give_three_digits_after_rounding(value: float, decimals: int) -> None:
    assert decimals_for([value]) == decimals
    assert len(f"{value:.{decimals}f}".replace(".", "")) == 3


def test_scores_and_their_change() -> None:
    assert score_text(Score("accuracy", 0.8286)) == "82.9 %"
    assert score_text(Score("perplexity", 31.42)) == "31.4"
    assert score_change(Score("accuracy", 0.102), Score("accuracy", 0.829)) == "+72.7 points"
    assert score_change(Score("perplexity", 60.0), Score("perplexity", 45.0)) == "-25 %"
    assert score_change(Score("perplexity", 60.0), Score("perplexity", math.inf)) == "diverged"


def test_factors_and_shares() -> None:
    assert factor_text(100, 1234) == "12.3x smaller"
    assert factor_text(1000, 500) == "2.00x larger"
    assert factor_text(7, 7) == factor_text(0, 0) == "as much"
    assert factor_text(0, 5) == "smaller"
    assert factor_text(5, 0) == "larger"
    assert times_text(374, 100) == "3.74x the peak"
    assert times_text(374, 0) == "-"
    assert share_text(1, 4) == "25 %"
    assert share_text(31, 10_000) == "0.31 %"
    assert share_text(1, 100_000) == "<0.01 %"
    assert share_text(0, 4) == "0 %"
    assert share_text(1, 0) == "-"


def test_counted() -> None:
    assert (counted(1, "device"), counted(8, "device")) == ("1 device", "8 devices")


def test_an_axis_of_memory_reaches_a_limit_that_is_near() -> None:
    assert bar_span(100, None) == bar_span(100, 40) == 100
    assert bar_span(100, 140) == 140
    assert bar_span(100, 160) == 100
    assert bar_span(0, 0) == 1
