"""Predicted against measured, on numbers made by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from cutlayer.lab.prediction import (
    CALIBRATED,
    ComputeSeconds,
    LabComparison,
    PhaseComparison,
    RoundComparison,
    compare_rounds,
    replay,
)
from lab.computing import STEPS, model, seconds

MODEL = model(1)


def observed(*loads: float) -> Mapping[int, Sequence[ComputeSeconds]]:
    """Rounds 1, 2, ... in which everything takes so many times as long as usual."""
    return {number: seconds(np.full(STEPS, load), 1) for number, load in enumerate(loads, 1)}


def records(*loads: float) -> list[dict[str, Any]]:
    """The same as they were measured: as long as their computing, and 0.1 s for a barrier."""
    return [
        {
            "round": number,
            "delay_s": replay(MODEL, own) + 0.1,
            "delay_by_phase_s": {"server_compute": 5.0 * load, "barrier": 0.1, "turn": 0.0},
        }
        for load, (number, own) in zip(loads, observed(*loads).items(), strict=True)
    ]


def compared(*loads: float) -> LabComparison:
    found = compare_rounds(MODEL, records(*loads), observed(*loads))
    assert found is not None
    return found


def test_every_round_is_predicted_from_those_before_it() -> None:
    """The first warms up: nothing is predicted from it. The second calibrates."""
    found = compared(9.0, 1.0, 2.0, 3.0)
    usual_s = STEPS * 0.875
    assert [one.number for one in found.rounds] == [3, 4]
    assert [one.predicted_s for one in found.rounds] == pytest.approx([usual_s, 1.5 * usual_s])
    assert [one.measured_s for one in found.rounds] == pytest.approx(
        [2 * usual_s + 0.1, 3 * usual_s + 0.1]
    )


def test_no_round_predicts_itself_or_one_before_it() -> None:
    """Whatever the last round is like, nothing that was predicted is another."""
    one, other = (compared(9.0, 1.0, 2.0, 3.0, last) for last in (4.0, 40.0))
    assert [own.predicted_s for own in one.rounds] == [own.predicted_s for own in other.rounds]
    assert [own.interval_s for own in one.rounds] == [own.interval_s for own in other.rounds]
    assert one.rounds[-1].measured_s < other.rounds[-1].measured_s


def test_what_the_timeline_itself_errs_by_is_told_apart() -> None:
    """A load that doubles is no error of the timeline; here it lacks a barrier of 0.1 s."""
    (last,) = compared(1.0, 1.0, 2.0).rounds
    assert last.difference == pytest.approx(1.0, abs=0.02)
    assert last.timeline_difference == pytest.approx(0.1 / (2 * STEPS * 0.875))
    found = compared(1.0, 1.0, 2.0, 1.0)
    assert found.timeline_error < 0.02 < found.mean_error


def test_medians_beside_predictions() -> None:
    found = compared(1.0, 1.0, 1.0, 1.0, 1.0, 90.0)
    rows = {line.label: (line.predicted_s, line.measured_s) for line in found.phases}
    assert rows["server compute"] == pytest.approx((5.0, 5.0))
    assert rows["device forward"] == pytest.approx((2.5, 0.0))
    # nothing was predicted, and a phase that took no time in either is left out
    assert rows["barrier"] == (0.0, 0.1) and "turn" not in rows
    assert found.phases[-1].difference is None or found.phases[-1].difference == -1.0
    # the one that the machine was busy in
    assert found.round.measured_s == pytest.approx(8.85)


def test_where_each_number_is_from() -> None:
    found = {line.label: line.basis for line in compared(1.0, 1.0, 1.0).phases}
    assert found["server compute"] == CALIBRATED
    assert found["barrier"] == "timeline"


def test_rounds_that_were_not_observed_are_left_out() -> None:
    """They are not predicted, and predict nothing."""
    made = {number: own for number, own in observed(*[1.0] * 6).items() if number not in (2, 4)}
    found = compare_rounds(MODEL, records(*[1.0] * 6), made)
    assert found is not None
    assert [one.number for one in found.rounds] == [5, 6]
    assert compare_rounds(MODEL, records(1.0, 1.0), observed(1.0, 1.0)) is None


def with_round(predicted_s: float, measured_s: float) -> LabComparison:
    return LabComparison((), PhaseComparison("round", predicted_s, measured_s, ""), ())


def test_within_ten_per_cent_is_either_way() -> None:
    """11 s and 9 s for 10 s are the ends of what is within a tenth, up to a rounding."""
    for one in (with_round(10.0, 11.0), with_round(10.0, 9.0)):
        assert one.within(0.1001) and not one.within(0.0999)
    assert not with_round(0.0, 1.0).within(0.1)


@pytest.mark.parametrize(
    ("interval_s", "expected"), [((9.0, 12.0), True), ((9.0, 10.5), False), (None, None)]
)
def test_whether_an_interval_held(
    interval_s: tuple[float, float] | None, expected: bool | None
) -> None:
    assert RoundComparison(3, 10.0, interval_s, 10.0, 11.0).expected is expected
