"""A round is recorded only if it came to numbers."""

import math
from pathlib import Path
from typing import Any

import pytest

from cutlayer.errors import RunError
from cutlayer.train.record import check_finite

GOOD = {"round": 3, "train_loss": 0.5, "eval_loss": 0.7}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eval_loss": math.nan}, "round 3 diverged: the loss on the test samples is nan"),
        ({"train_loss": math.inf}, "round 3 diverged: its training loss is inf; what round 2 left"),
        ({"round": 1, "train_loss": -math.inf}, "nothing was trained before it; start a new run"),
        (
            {"round": 0, "eval_loss": math.nan},
            "before training the loss on the test samples is nan",
        ),
    ],
)
def test_a_loss_that_is_not_finite_names_the_round(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError) as caught:
        check_finite(Path("runs/a-001"), GOOD | change)
    assert message in str(caught.value)


def test_a_server_cannot_end_a_run_before_the_round_that_its_journal_closed() -> None:
    for simulated in (True, False):
        with pytest.raises(RunError) as caught:
            check_finite(Path("a"), GOOD | {"eval_loss": math.nan}, simulated=simulated)
        assert ("--training.rounds 2 beside --resume" in str(caught.value)) == simulated


def test_finite_losses_pass() -> None:
    check_finite(Path("a"), GOOD)
    check_finite(Path("a"), {"round": 0, "eval_loss": 700.0})
