"""When a round closes, goes on, or is given up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.net.server.devices import RoundEnd, RoundVerdict


@pytest.mark.parametrize(
    ("made", "elapsed_s", "verdict"),
    [
        (3, 0.0, RoundVerdict.CLOSE),
        (2, 9.9, RoundVerdict.GO_ON),
        (2, 10.0, RoundVerdict.CLOSE),
        (1, 10.0, RoundVerdict.SHORT),
        (1, 99.0, RoundVerdict.SHORT),
        (1, 100.0, RoundVerdict.GIVE_UP),
        (2, 100.0, RoundVerdict.CLOSE),
    ],
)
def test_a_round_of_three_with_a_quorum_of_two(
    made: int, elapsed_s: float, verdict: RoundVerdict
) -> None:
    assert RoundEnd(3, 2, deadline_s=10.0, give_up_s=100.0).verdict(made, elapsed_s) is verdict


def test_without_a_deadline_all_are_needed_whatever_the_quorum() -> None:
    end = RoundEnd(3, 2, deadline_s=None, give_up_s=100.0)
    assert end.needed == 3
    assert end.verdict(2, 99.0) is RoundVerdict.GO_ON
    assert end.verdict(2, 100.0) is RoundVerdict.GIVE_UP
    assert end.verdict(3, 100.0) is RoundVerdict.CLOSE


@given(
    made=st.integers(0, 4),
    elapsed_s=st.floats(0, 1e9),
    later_s=st.floats(0, 1e9),
    deadline_s=st.one_of(st.none(), st.floats(1, 1e6)),
)
def test_a_round_that_may_close_may_close_later_and_nobody_gives_up_unasked(
    made: int, elapsed_s: float, later_s: float, deadline_s: float | None
) -> None:
    end = RoundEnd(4, 2, deadline_s)
    now, then = end.verdict(made, elapsed_s), end.verdict(made, elapsed_s + later_s)
    assert now is not RoundVerdict.CLOSE or then is RoundVerdict.CLOSE
    assert RoundVerdict.GIVE_UP not in (now, then)
    assert now is not RoundVerdict.CLOSE or made >= 2
