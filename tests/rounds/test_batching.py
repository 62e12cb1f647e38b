"""Who is taken together, and who shares a pass."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ConfigError
from cutlayer.rounds.batching import MOST_PADDING, ServerBatch, ServerBatching, Waiting

ARRIVALS = ServerBatching(ServerBatch.ARRIVALS, most_tokens=100)
QUEUES = st.lists(
    st.builds(Waiting, st.integers(0, 5), st.integers(1, 8), st.integers(1, 40)), max_size=12
)


def images(*devices: int) -> list[Waiting]:
    """Ten samples of two tokens of each."""
    return [Waiting(device, 10, 2) for device in devices]


def test_alone_the_oldest_is_computed_by_itself() -> None:
    alone = ServerBatching()
    assert alone.take(images(3, 1, 2)) == (0,)
    assert alone.take([]) == ()
    assert alone.passes(images(3)) == ((0,),)


def test_all_that_wait_share_a_pass() -> None:
    waiting = images(3, 1, 2)
    assert ARRIVALS.take(waiting) == (0, 1, 2)
    assert ARRIVALS.passes(waiting) == ((0, 1, 2),)


def test_a_budget_ends_a_batch_where_the_first_one_does_not_fit() -> None:
    large, small = Waiting(1, 60, 1), Waiting(2, 1, 1)
    assert ARRIVALS.take([Waiting(0, 50, 1), large, small]) == (0,)
    assert ARRIVALS.take([Waiting(0, 40, 1), large, small]) == (0, 1)


def test_one_beyond_the_budget_is_computed_by_itself() -> None:
    assert ARRIVALS.take([Waiting(0, 500, 1), *images(1)]) == (0,)


def test_devices_take_turns_within_the_budget() -> None:
    assert ARRIVALS.take(images(7, 7, 7, 1, 7, 2)) == (0, 3, 5, 1, 2)


def test_texts_of_other_lengths_are_other_passes_and_the_oldest_is_in_the_first() -> None:
    taken = [Waiting(0, 4, 10), Waiting(1, 4, 100), Waiting(2, 4, 11), Waiting(3, 4, 90)]
    assert ARRIVALS.passes(taken) == ((0, 2), (1, 3))


@given(waiting=QUEUES)
def test_whoever_waits_is_taken_in_the_end_and_nobody_twice(waiting: list[Waiting]) -> None:
    left, done = list(waiting), []
    while left:
        taken = ARRIVALS.take(left)
        assert taken[0] == 0
        assert len(taken) == 1 or sum(left[n].cost for n in taken) <= ARRIVALS.most_tokens
        done += [left[n] for n in taken]
        left = [one for place, one in enumerate(left) if place not in taken]
    assert sorted(done, key=repr) == sorted(waiting, key=repr)
    for device in {one.device for one in waiting}:
        own = [[one for one in each if one.device == device] for each in (waiting, done)]
        assert own[0] == own[1]


@given(taken=QUEUES)
def test_passes_hold_each_once_and_pad_by_a_quarter_at_most(taken: list[Waiting]) -> None:
    passes = ARRIVALS.passes(taken)
    assert sorted(chain.from_iterable(passes)) == list(range(len(taken)))
    assert not passes or passes[0][0] == 0
    for places in passes:
        together = [taken[place] for place in places]
        padded = sum(one.samples for one in together) * max(one.tokens for one in together)
        assert padded <= MOST_PADDING * sum(one.cost for one in together)


def test_nobody_waits_unless_told() -> None:
    assert ARRIVALS.pause_s(images(0), 0.0, more=True) == 0.0


def test_the_oldest_waits_for_others_that_can_come_until_there_are_enough() -> None:
    patient = ServerBatching(ServerBatch.ARRIVALS, most_tokens=40, coalesce_s=0.5)
    assert patient.pause_s(images(0), 0.125, more=True) == 0.375
    assert patient.pause_s(images(0), 2.0, more=True) == 0.0
    assert patient.pause_s(images(0), 0.0, more=False) == 0.0
    assert patient.pause_s(images(0, 1), 0.0, more=True) == 0.0
    assert ServerBatching(coalesce_s=0.5).pause_s(images(0), 0.0, more=True) == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"most_tokens": 0}, "most_tokens is 0"),
        ({"coalesce_s": -1.0}, "coalesce_s is -1.0"),
        ({"coalesce_s": float("nan")}, "coalesce_s is nan"),
        ({"coalesce_s": float("inf")}, "coalesce_s is inf"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServerBatching(ServerBatch.ARRIVALS, **settings)  # type: ignore[arg-type]
