"""A line now and then, from the first interval on, until the context ends."""

import threading

from cutlayer.logs import EVERY_S, Heartbeat, lines_to, so_far


def test_it_says_the_text_of_the_moment_again_and_again() -> None:
    said: list[str] = []
    thrice = threading.Event()

    def hear(line: str) -> None:
        said.append(line)
        if len(said) == 3:
            thrice.set()

    with lines_to(hear), Heartbeat(lambda: f"line {len(said)}", every_s=0.01):
        assert thrice.wait(10)
    count = len(said)
    assert said[:3] == ["line 0", "line 1", "line 2"]
    assert not [one for one in threading.enumerate() if one.name == "heartbeat"]
    assert len(said) == count


def test_it_says_nothing_before_its_time_and_ends_at_once() -> None:
    said: list[str] = []
    with lines_to(said.append), Heartbeat(lambda: "too early"):
        pass
    assert said == []


def test_it_comes_more_often_than_every_30_s() -> None:
    assert EVERY_S <= 30


def test_what_has_gone_on_so_far() -> None:
    times_s = iter([7.0, 7.0, 57.1])
    line = so_far("getting ready", lambda: next(times_s))
    assert line() == "getting ready, 0 ms so far"
    assert line() == "getting ready, 50.1 s so far"
