"""What a person sees of a run, on a terminal and in a log."""

import io
import logging
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from cutlayer.cli.progress import RunProgress
from cutlayer.report.wording import round_line
from cutlayer.training.records import FirstRound, TrainedRound

_LOG = logging.getLogger("cutlayer.cli")
RECORD = TrainedRound(
    round=1,
    accuracy=0.412,
    eval_loss=1.9,
    train_loss=1.7149,
    delay_s=0.855,
    delay_by_phase_s={"device_forward": 0.855},
    slowest_device=0,
    virtual_time_s=0.855,
    uplink_bytes=4_897_000,
    downlink_bytes=1024,
    uncompressed_uplink_bytes=9_000_000,
    uncompressed_downlink_bytes=1024,
    bytes_by_payload={},
    wall_s=17.8,
)


def test_a_rounds_line_says_which_seconds_are_which() -> None:
    assert round_line(RECORD, 5) == (
        "round 1 of 5: accuracy 41.2 %, loss 1.71; up 4.67 MiB, down 1.00 KiB; simulated round"
        " 855 ms (wall-clock 17.8 s)"
    )


def test_the_line_before_the_first_round() -> None:
    first = FirstRound(round=0, perplexity=31.44, eval_loss=3.4, virtual_time_s=0.0, wall_s=2.0)
    assert round_line(first, 5) == "before training: perplexity 31.4 (wall-clock 2.00 s)"


def _played(console: Console, *, quiet: bool = False, every_s: float = 60.0) -> RunProgress:
    with RunProgress(quiet, console, every_s) as progress:
        _LOG.info("model [tiny]: from path")
        progress.round_begins(1, 2)
        progress.step_done(1, 1, 4)
        progress.round_done(RECORD)
        _LOG.info(round_line(RECORD, 2))
    return progress


def test_a_log_has_lines_and_nothing_that_moves() -> None:
    text = io.StringIO()
    _played(Console(file=text, width=80))
    assert text.getvalue().splitlines() == ["model [tiny]: from path", round_line(RECORD, 2)]


def test_a_log_is_not_silent_while_a_run_gets_ready() -> None:
    text = io.StringIO()
    with RunProgress(console=Console(file=text, width=80), every_s=0.01) as progress:
        assert _comes(lambda: text.getvalue().count("getting ready; ") >= 2)
        progress.round_begins(3, 4)
        progress.step_done(3, 5, 10)
        assert _comes(lambda: "62 %: round 3 of 4, step 5 of 10; " in text.getvalue())


def _comes(said: Callable[[], bool]) -> bool:
    """Whether it is said before anybody loses patience."""
    return any(said() or time.sleep(0.01) for _ in range(6000))


def test_a_terminal_has_one_bar_for_the_whole_run() -> None:
    text = io.StringIO()
    console = Console(file=text, width=100, force_terminal=True, color_system=None)
    with RunProgress(console=console) as progress:
        progress.round_begins(3, 4)
        progress.step_done(3, 5, 10)
        progress._bars.refresh()
        shown = text.getvalue()
    assert "round 3 of 4, step 5 of 10" in shown
    assert " 62%" in shown
    assert "left" in shown


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_shows_nothing(terminal: bool) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, quiet=True)
    _played(console, quiet=True, every_s=0.001)
    assert text.getvalue() == ""


def test_a_warning_is_shown_however_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with RunProgress(quiet=True):
        _LOG.info("data reviews: from path")
        _LOG.warning("33% of the tokens are unknown")
    assert capsys.readouterr() == ("", "warning: 33% of the tokens are unknown\n")
