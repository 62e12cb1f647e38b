"""A lab that is asked to stop stops, and cleans up first."""

import signal
from collections.abc import Iterator

import pytest

from cutlayer.lab.run import StopSignals

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """What runs in the background, or under `nohup`, ignores some of them."""
    usual = dict.fromkeys((signal.SIGTERM, signal.SIGHUP), signal.SIG_DFL)
    handlers = {signal.SIGINT: signal.default_int_handler, **usual}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def tell(number: signal.Signals) -> None:
    """A signal to this process; Python hears it before the next statement."""
    signal.raise_signal(number)


@SIGNALS
def test_a_signal_ends_what_may_be_ended(number: signal.Signals) -> None:
    """A second one does not disturb the cleaning up; afterwards all is as before."""
    before, cleaned = signal.getsignal(number), False
    with pytest.raises(KeyboardInterrupt), StopSignals() as stop, stop.heeded():
        try:
            tell(number)
        finally:
            tell(number)
            cleaned = True
    assert cleaned
    assert signal.getsignal(number) is before


@SIGNALS
def test_cleaning_up_is_not_disturbed(number: signal.Signals) -> None:
    """After an end that nobody asked for, either."""
    done = []
    with StopSignals() as stop:
        with stop.heeded():
            done.append("run")
        tell(number)
        done.append("cleaned")
    assert done == ["run", "cleaned"]


@SIGNALS
def test_one_that_comes_early_is_remembered(number: signal.Signals) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), StopSignals() as stop:
        tell(number)
        done.append("built")
        with stop.heeded():
            done.append("run")
    assert done == ["built"]


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop, stop.heeded():
            tell(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
