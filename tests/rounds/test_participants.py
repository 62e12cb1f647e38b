"""Who takes part in a round, and when it closes, goes on, or is given up."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ConfigError
from cutlayer.rounds.participants import (
    AlwaysThere,
    Availability,
    AvailableAtRate,
    Population,
    RoundEnd,
    RoundVerdict,
    parsed_availability,
)


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


@pytest.mark.parametrize(
    ("came_s", "closes_s"),
    [
        ([3.0, 4.0, 9.0], 9.0),
        ([3.0, 4.0, 99.0], 10.0),
        ([3.0, 12.0, 99.0], 12.0),
        ([3.0, 4.0, math.inf], 10.0),
        ([3.0, math.inf, math.inf], None),
    ],
    ids=["all in time", "one late", "the quorum is late", "one left", "too many left"],
)
def test_a_round_closes_with_all_or_at_its_deadline_with_a_quorum(
    came_s: list[float], closes_s: float | None
) -> None:
    assert RoundEnd(3, 2, deadline_s=10.0).closes_s(came_s) == closes_s
    given_up = RoundEnd(3, 2, deadline_s=10.0, give_up_s=11.0).closes_s(came_s)
    assert given_up == (closes_s if closes_s != 12.0 else None)


def _population(availability: Availability, per_round: int = 3) -> Population:
    return Population(10, per_round, seed=7, availability=availability)


def test_who_takes_part_follows_from_seed_and_round_alone() -> None:
    population = _population(AlwaysThere())
    rounds = [population.begin(number, 1.0) for number in range(1, 40)]
    assert rounds == [population.begin(number, 1.0) for number in range(1, 40)]
    assert {len(set(begins.devices)) for begins in rounds} == {3}
    assert all(list(begins.devices) == sorted(begins.devices) for begins in rounds)
    # 39 draws of 3 of 10: a device in none of them has a chance of 0.7^39
    assert {device for begins in rounds for device in begins.devices} == set(range(10))
    other = Population(10, 3, seed=8)
    assert rounds != [other.begin(number, 1.0) for number in range(1, 40)]


def test_of_devices_that_are_there_at_a_rate_those_take_part() -> None:
    population = Population(1000, 1000, seed=1, availability=AvailableAtRate(0.3, seed=1))
    sizes = [len(population.begin(number, 0.0).devices) for number in range(1, 11)]
    # 10,000 draws at 0.3: five standard deviations are 229
    assert abs(sum(sizes) - 3000) < 229 and len(set(sizes)) > 1


TRACE = "device,from_s,to_s\n" + "".join(f"{n},{n},{n + 4}\n" for n in range(10))

BY_TRACE = parsed_availability(TRACE, "x.csv", 10)


def test_by_a_trace_a_round_waits_until_a_quorum_is_there() -> None:
    assert BY_TRACE.length_s == 13.0 and BY_TRACE.most == 4
    population = Population(10, 3, seed=0, availability=BY_TRACE, quorum=3, deadline_s=1.0)
    begins = population.begin(1, 0.0)
    assert begins.devices == (0, 1, 2) and begins.now_s == 2.0
    assert population.begin(1, 12.5).devices == (0, 1, 2)
    # the next time round it begins after the first: 13 s and 2 s
    assert population.begin(1, 12.5).now_s == pytest.approx(15.0)
    assert set(population.begin(1, 6.5).devices) <= {3, 4, 5, 6}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "line 1 must be device,from_s,to_s"),
        ("device,from,to\n", "line 1 must be"),
        ("device,from_s,to_s\n0,0\n", "line 2 has 2 values"),
        ("device,from_s,to_s\n10,0,1\n", "'10' is no device: they are 0 to 9"),
        ("device,from_s,to_s\n1,x,1\n", "are no times"),
        ("device,from_s,to_s\n1,3,2\n", "from 3 s to 2 s"),
        ("device,from_s,to_s\n1,0,nan\n", "give times from 0 on"),
        ("device,from_s,to_s\n1,0,5\n1,4,9\n", "device 1 is there until 5 s and again from 4"),
        ("device,from_s,to_s\n0,0,1\n", "no line of device 1, 2, 3, 4, 5 and 4 more"),
    ],
)
def test_a_trace_with_holes_or_mistakes_is_refused_with_its_line(lines: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parsed_availability(lines, "x.csv", 10)


def test_devices_leave_at_the_rate_and_in_any_step() -> None:
    population = Population(10, 10, seed=3, dropout=0.25, quorum=5, deadline_s=1.0)
    left = [population.leaves(number, device, 4) for number in range(100) for device in range(10)]
    steps = [step for step in left if step is not None]
    # 1000 draws at 0.25: five standard deviations are 69
    assert abs(len(steps) - 250) < 69 and set(steps) == {0, 1, 2, 3}
    assert left[13] == population.leaves(1, 3, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_round": 11}, "devices.per_round 11 of devices.count 10"),
        ({"quorum": 4, "deadline_s": 1.0}, "net.quorum 4 of 3 devices in a round"),
        ({"dropout": 0.1}, "would never close: set net.deadline_s"),
        ({"availability": AvailableAtRate(0.1, 0), "quorum": 2}, "there at a time"),
        ({"availability": BY_TRACE, "per_round": 9, "quorum": 5}, "4 of 10 devices are there"),
    ],
)
def test_a_population_that_cannot_be_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Population(**{"count": 10, "per_round": 3, "seed": 0, **settings})  # type: ignore[arg-type]
