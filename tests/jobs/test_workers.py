"""Work in other processes: what comes back, what is said, and what becomes of a process; and what
processes share."""

import logging
import os
import signal
from collections.abc import Callable
from contextlib import closing
from multiprocessing import active_children

import pytest

from cutlayer.jobs.workers import Processes, WorkerDied, spread
from cutlayer.logs import lines_to

_LOG = logging.getLogger("cutlayer.squares")


def squares() -> Callable[[int], int]:
    """Squares of numbers, each said; 13 is refused, and 99 kills."""
    _LOG.info("begun")

    def square(number: int) -> int:
        if number == 13:
            raise ValueError("unlucky")
        if number == 99:
            os.kill(os.getpid(), signal.SIGKILL)
        _LOG.warning("at %d", number)
        return number**2

    return square


def nobody() -> Callable[[int], int]:
    """Cannot begin."""
    raise RuntimeError("no room")


def interrupts() -> Callable[[int], bool]:
    """Whether Ctrl-C would end the process."""
    return lambda _: signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def test_all_come_back_and_each_process_begins_once() -> None:
    said: list[str] = []
    with lines_to(said.append):
        assert dict(spread(Processes(2), squares, range(5))) == {0: 0, 1: 1, 2: 4, 3: 9, 4: 16}
    assert sorted(said) == ["begun", "begun", *(f"warning: at {number}" for number in range(5))]
    assert not active_children()
    assert list(spread(Processes(2), squares, [])) == []


def test_one_at_a_time_is_in_order() -> None:
    assert [item for item, _ in spread(Processes(1), squares, [3, 1, 2])] == [3, 1, 2]


def test_what_is_raised_or_dies_loses_only_its_item() -> None:
    said: list[str] = []
    with lines_to(said.append):
        done = dict(spread(Processes(1), squares, [13, 99, 3]))
    assert isinstance(done[13], ValueError) and str(done[13]) == "unlucky"
    assert done[99] == WorkerDied(-signal.SIGKILL) and "ended with code -9" in str(done[99])
    assert done[3] == 9
    assert said.count("begun") == 3


def test_a_process_that_cannot_begin() -> None:
    done = list(spread(Processes(2), nobody, [1, 2]))
    assert sorted((item, str(error)) for item, error in done) == [(1, "no room"), (2, "no room")]


def test_an_interrupt_here_ends_all() -> None:
    def hear(line: str) -> None:
        raise KeyboardInterrupt

    with (
        lines_to(hear),
        pytest.raises(KeyboardInterrupt),
        closing(spread(Processes(2), squares, range(4))) as ended,
    ):
        list(ended)
    assert not active_children()


def test_an_interrupt_is_for_who_started_them() -> None:
    assert list(spread(Processes(1), interrupts, [0])) == [(0, False)]
