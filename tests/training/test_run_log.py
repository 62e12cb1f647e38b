"""When a run is evaluated, and when it ends early: a function of its records."""

from collections.abc import Sequence

import pytest

from cutlayer.training.records import FirstRound, RoundRecord, TrainedRound, best_round
from cutlayer.training.run_log import early_stop
from cutlayer.training.state import EvaluationRule


def records(
    scores: Sequence[float | None], measure: str = "accuracy", first: float = 0.5
) -> list[RoundRecord]:
    """A run whose rounds 1, 2, ... have these scores; None: not evaluated."""
    out: list[RoundRecord] = [
        FirstRound.model_validate(
            {"round": 0, measure: first, "eval_loss": 2.0, "virtual_time_s": 0.0, "wall_s": 1.0}
        )
    ]
    for number, score in enumerate(scores, start=1):
        evaluated = {} if score is None else {measure: score, "eval_loss": 1.0}
        out.append(
            TrainedRound.model_validate(
                {
                    "round": number,
                    **evaluated,
                    "train_loss": 1.0,
                    "delay_s": 0.0,
                    "delay_by_phase_s": {},
                    "slowest_device": 0,
                    "virtual_time_s": 0.0,
                    "uplink_bytes": 0,
                    "downlink_bytes": 0,
                    "uncompressed_uplink_bytes": 0,
                    "uncompressed_downlink_bytes": 0,
                    "bytes_by_payload": {},
                    "wall_s": 1.0,
                }
            )
        )
    return out


@pytest.mark.parametrize(
    ("scores", "patience", "min_delta", "best"),
    [
        ([0.6, 0.7, 0.7, 0.69], 2, 0.0, 2),  # as good is not better
        ([0.6, 0.7, 0.7], 2, 0.0, None),
        ([0.6, 0.7, 0.71, 0.72], 2, 0.05, 2),  # better, but by too little
        ([0.6, 0.7, 0.71, 0.76], 2, 0.05, None),  # small steps add up
        ([0.6, None, None, 0.5], 2, 0.0, 1),  # rounds count, evaluated or not
        ([0.6, None, None], 2, 0.0, None),  # what nobody evaluated ends nothing
        ([0.4, 0.3], 1, 0.0, 1),  # worse than before training all the time
        ([0.6, 0.5], None, 0.0, None),
        ([], 1, 0.0, None),
    ],
)
def test_a_run_ends_when_nothing_gets_better(
    scores: Sequence[float | None], patience: int | None, min_delta: float, best: int | None
) -> None:
    rule = EvaluationRule(1, patience, min_delta)
    stop = early_stop(records(scores), rule)
    assert (None if stop is None else stop.best) == best
    if stop is not None:
        assert stop.round == len(scores)
        assert str(stop) == (
            f"stopped early after round {len(scores)}: no better accuracy since round {best}"
        )


def test_a_perplexity_is_better_when_it_is_lower() -> None:
    falls = records([20.0, 12.0, 13.0, 12.5], "perplexity", first=30.0)
    assert best_round(falls) is falls[2]
    assert early_stop(falls, EvaluationRule(1, 2)) is not None
    assert early_stop(falls, EvaluationRule(1, 3)) is None


def test_the_best_round_is_one_that_was_evaluated() -> None:
    run = records([None, 0.6, None, 0.6, 0.5])
    assert best_round(run) is run[2]
    assert best_round(records([])) is None


def test_the_first_and_the_last_round_are_always_evaluated() -> None:
    due = [number for number in range(13) if EvaluationRule(every=5, rounds=12).due(number)]
    assert due == [0, 1, 5, 10, 12]
    assert all(EvaluationRule().due(number) for number in range(13))


def test_a_score_comes_with_its_loss() -> None:
    line = records([0.5])[1].written()
    del line["eval_loss"]
    with pytest.raises(ValueError, match="a score and no eval_loss"):
        TrainedRound.model_validate(line)
