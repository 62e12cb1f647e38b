"""How far a run is and how long it will take, on a clock of our own."""

import pytest

from cutlayer.cli.progress import Pace


class Clock:
    """Seconds as the test says."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _round(pace: Pace, clock: Clock, number: int, rounds: int, steps: int) -> None:
    """A round whose steps take 2 s each, its evaluation 5 s."""
    pace.round_begins(number, rounds)
    for done in range(1, steps + 1):
        clock.now_s += 2
        pace.step_done(done, steps)
    clock.now_s += 5
    pace.round_done()


def test_before_anything_begins(clock: Clock) -> None:
    pace = Pace(clock)
    clock.now_s += 50.1
    assert pace.line == "getting ready; 50.1 s so far"
    assert pace.left_s is None


def test_the_evaluation_before_training(clock: Clock) -> None:
    pace = Pace(clock)
    pace.round_begins(0, 3)
    assert pace.line == "0 %: evaluating before training; 0 ms so far"


def test_the_rest_is_told_from_steps_and_evaluations(clock: Clock) -> None:
    pace = Pace(clock)
    _round(pace, clock, 0, 3, 0)
    pace.round_begins(1, 3)
    clock.now_s += 2
    pace.step_done(1, 4)
    assert pace.stage == "round 1 of 3, step 1 of 4"
    assert pace.fraction == pytest.approx(1 / 12)
    # 3 steps of this round and 8 of the others at 2 s, 3 evaluations at 5 s
    assert pace.left_s == pytest.approx(11 * 2 + 3 * 5)
    assert pace.line == "8 %: round 1 of 3, step 1 of 4; 7.00 s so far, about 37 s left"


def test_time_goes_on_over_the_whole_run(clock: Clock) -> None:
    pace = Pace(clock)
    _round(pace, clock, 0, 2, 0)
    _round(pace, clock, 1, 2, 4)
    pace.round_begins(2, 2)
    assert pace.fraction == pytest.approx(0.5)
    assert pace.left_s == pytest.approx(4 * 2 + 5)
    for done in range(1, 5):
        clock.now_s += 2
        pace.step_done(done, 4)
    assert pace.stage == "round 2 of 2, evaluating"
    assert pace.left_s == pytest.approx(5)
    clock.now_s += 5
    pace.round_done()
    assert (pace.fraction, pace.left_s) == (1.0, None)
    assert pace.line == "writing results; 31.0 s so far"


def test_a_resumed_run_begins_where_it_stands(clock: Clock) -> None:
    pace = Pace(clock)
    pace.round_begins(4, 5)
    assert pace.fraction == pytest.approx(3 / 5)
    assert pace.left_s is None, "nothing has been timed in this process"


def test_another_run_is_not_timed_by_the_one_before(clock: Clock) -> None:
    pace = Pace(clock)
    _round(pace, clock, 1, 1, 4)
    pace.round_begins(0, 7)
    assert (pace.rounds, pace.fraction, pace.left_s) == (7, 0.0, None)
