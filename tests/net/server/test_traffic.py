"""Bytes by payload: what is kept of rounds is bounded, what is summed is not lost."""

from cutlayer.net.server.devices import PassCounter, TrafficCounter
from cutlayer.net.wire.messages import Ask, Gradient, Position

GRADIENT = Gradient(Position(1, 0, 0), bytes(100))


def test_two_rounds_are_kept_and_all_are_summed() -> None:
    traffic = TrafficCounter()
    for number in range(1, 1001):
        traffic.add(number, GRADIENT, 140)
        traffic.add(number, Ask(), 30)
    assert traffic.of(1000) == traffic.of(999) == {"gradient": 100, "overhead": 70}
    assert traffic.of(998) == {}
    assert traffic.total() == {"gradient": 100_000, "overhead": 70_000}
    assert len(traffic._rounds) == 2
    assert traffic.count(1000, "gradient") == 1 and traffic.count(998, "gradient") == 0


def test_asking_for_a_round_without_frames_keeps_nothing() -> None:
    traffic = TrafficCounter()
    assert traffic.of(7) == traffic.total() == {}
    assert not traffic._rounds


def test_the_mean_of_passes_is_the_last_rounds() -> None:
    passes = PassCounter()
    assert passes.mean is None
    passes.add(1)
    passes.add(4)
    assert passes.mean == 2.5
    passes.close()
    passes.add(8)
    assert passes.mean == 2.5
    assert passes.total == {1: 1, 4: 1, 8: 1}
    passes.close()
    assert passes.mean == 8
