"""A round is recorded only if it came to numbers."""

import math
from pathlib import Path

import pytest

from cutlayer.errors import RunError
from cutlayer.training.records import FirstRound, RoundRecord, TrainedRound
from cutlayer.training.run_directory import check_finite

FIRST = FirstRound(round=0, accuracy=0.1, eval_loss=0.7, virtual_time_s=0.0, wall_s=1.0)
GOOD = TrainedRound(
    round=3,
    accuracy=0.1,
    eval_loss=0.7,
    train_loss=0.5,
    delay_s=1.0,
    delay_by_phase_s={"turn": 1.0},
    slowest_device=0,
    virtual_time_s=3.0,
    uplink_bytes=1,
    downlink_bytes=1,
    uncompressed_uplink_bytes=1,
    uncompressed_downlink_bytes=1,
    bytes_by_payload={},
    wall_s=1.0,
)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            GOOD.model_copy(update={"eval_loss": math.nan}),
            "round 3 diverged: the loss on the test samples is nan",
        ),
        (
            GOOD.model_copy(update={"train_loss": math.inf}),
            "round 3 diverged: its training loss is inf; the state after round 2",
        ),
        (
            GOOD.model_copy(update={"round": 1, "train_loss": -math.inf}),
            "nothing was trained before it; start a new run",
        ),
        (
            FIRST.model_copy(update={"eval_loss": math.nan}),
            "before training the loss on the test samples is nan",
        ),
    ],
)
def test_a_loss_that_is_not_finite_names_the_round(record: RoundRecord, message: str) -> None:
    with pytest.raises(RunError) as caught:
        check_finite(Path("runs/a-001"), record)
    assert message in str(caught.value)


def test_a_server_cannot_end_a_run_before_the_round_that_its_journal_closed() -> None:
    for simulated in (True, False):
        with pytest.raises(RunError) as caught:
            record = GOOD.model_copy(update={"eval_loss": math.nan})
            check_finite(Path("a"), record, simulated=simulated)
        assert ("resumed with training.rounds 2" in str(caught.value)) == simulated


def test_finite_losses_pass() -> None:
    check_finite(Path("a"), GOOD)
    check_finite(Path("a"), FIRST)
