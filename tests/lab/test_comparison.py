"""Predicted against measured, on numbers made by hand."""

from typing import Any

import pytest

from cutlayer.lab.lab import CALIBRATED, compare_rounds

PREDICTED = {
    "delay_s": 10.0,
    "delay_by_phase_s": {"device_forward": 2.0, "activation_up": 4.0, "server_queue": 4.0},
}


def measured(number: int, **phases: float) -> dict[str, Any]:
    return {"round": number, "delay_s": sum(phases.values()), "delay_by_phase_s": phases}


ROUNDS = [
    measured(2, device_forward=1.0, activation_up=5.0, server_queue=4.0, barrier=0.0),
    measured(3, device_forward=3.0, activation_up=5.0, server_queue=3.0),
    # one that the machine was busy in
    measured(4, device_forward=2.5, activation_up=4.5, server_queue=90.0),
]


def test_medians_beside_predictions() -> None:
    found = compare_rounds(PREDICTED, ROUNDS, {"device_forward"})
    rows = {line.label: (line.predicted_s, line.measured_s) for line in found.phases}
    assert rows == {
        "device forward": (2.0, 2.5),
        "activation up": (4.0, 5.0),
        "server queue": (4.0, 4.0),
    }
    assert found.round.measured_s == 11.0
    assert found.round.difference == pytest.approx(0.1)
    assert found.rounds == (2, 3, 4)


def test_where_each_number_is_from() -> None:
    found = compare_rounds(PREDICTED, ROUNDS, {"device_forward"})
    assert [line.basis for line in found.phases] == [CALIBRATED, "channel and codec", "timeline"]


def test_within_ten_per_cent_is_either_way() -> None:
    """11 s and 9 s for 10 s are the ends of what is within a tenth, up to a rounding."""
    longer = compare_rounds(PREDICTED, [measured(2, device_forward=11.0)], ())
    shorter = compare_rounds(PREDICTED, [measured(2, device_forward=9.0)], ())
    for one in (longer, shorter):
        assert one.within(0.1001) and not one.within(0.0999)


def test_what_was_not_predicted_has_no_difference() -> None:
    """And a phase that took no time in either is left out."""
    found = compare_rounds(PREDICTED, [measured(2, barrier=1.0, turn=0.0)], ())
    rows = {line.label: line.difference for line in found.phases}
    assert rows == {
        "device forward": -1.0,
        "activation up": -1.0,
        "server queue": -1.0,
        "barrier": None,
    }


def test_no_round_was_measured() -> None:
    with pytest.raises(ValueError, match="no round"):
        compare_rounds(PREDICTED, [], ())
