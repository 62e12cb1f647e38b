"""What a run has come to as its rounds end: records, the checkpoint, the last and the best round's
adapter, and whether it goes on.

All that is decided follows from the records: a run that is resumed decides the same.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

from cutlayer.files import write_json
from cutlayer.training.evaluation import Evaluation
from cutlayer.training.records import (
    DETAILS,
    EvaluationFile,
    FirstRound,
    Observer,
    RoundRecord,
    Score,
    Summary,
    TraceLine,
    TrainedRound,
    best_round,
    read_details,
)
from cutlayer.training.run_directory import RunDirectory, check_finite, totals
from cutlayer.training.state import EvaluationRule, RunState


@dataclass(frozen=True)
class EarlyStop:
    """Why a run ended after `round`: no better score for so many rounds, since `best`."""

    round: int
    best: int
    measure: str

    def __str__(self) -> str:
        return (
            f"stopped early after round {self.round}: no better {self.measure} since round"
            f" {self.best}"
        )


def early_stop(records: Iterable[RoundRecord], rule: EvaluationRule) -> EarlyStop | None:
    """Whether the last of these records ends the run: it was evaluated, and in `patience` rounds
    no score was better, by more than `min_delta`, than the best before them."""
    if rule.patience is None:
        return None
    best: tuple[int, Score] | None = None
    last: RoundRecord | None = None
    for record in records:
        last, score = record, record.score
        if not isinstance(record, TrainedRound) or score is None:
            continue
        if best is None or score.goodness > best[1].goodness + rule.min_delta:
            best = record.round, score
    if best is None or last is None or last.score is None:
        return None
    if last.round - best[0] < rule.patience:
        return None
    return EarlyStop(last.round, best[0], best[1].measure)


# puts what was trained until a state into the run directory, as that of the last round and, if
# told so, as that of the best
Keep: TypeAlias = Callable[[RunState, bool], None]


@final
class RunLog:
    """A run's directory as its rounds end: their records, the checkpoint, what was trained.

    `records`: of all finished rounds, the evaluation before training first. `rule`: when the run
    is evaluated, and ends. `details`: of the last evaluation and the best, once there is one.
    """

    def __init__(
        self,
        directory: RunDirectory,
        keep: Keep,
        observer: Observer,
        rule: EvaluationRule | None = None,
        class_names: Sequence[str] = (),
    ) -> None:
        self._class_names = class_names
        self.details: EvaluationFile | None = None
        self.rule = rule or EvaluationRule()
        self.directory = directory
        self.observer = observer
        self.records: list[RoundRecord] = []
        self._keep = keep

    def resume(self, state: RunState, trained: RunState | None = None) -> None:
        """Go on from a checkpoint: what lies there of later rounds goes, and what a kill has kept
        from being written comes. `trained`: what the last round trained, where the state has less
        of it."""
        self.directory.cut_after(state.round)
        self.records = self.directory.records()
        self.details = read_details(self.directory.path)
        if state.round:
            self._keep(trained or state, self._is_best(state))

    def begin(self, state: RunState, record: FirstRound) -> None:
        """The evaluation before training. Raises RunError for a loss that is not finite."""
        check_finite(self.directory.path, record)
        self._close(state, record)

    def round_done(
        self,
        state: RunState,
        record: TrainedRound,
        trace: Iterable[TraceLine],
        evaluation: Evaluation | None = None,
        *,
        simulated: bool = True,
        trained: RunState | None = None,
    ) -> None:
        """A round: trace and record, then the checkpoint, then what was `trained` (None: what the
        state has). A kill between them is made good by `resume`. Raises RunError for a loss that is
        not finite, before anything of the round is written."""
        check_finite(self.directory.path, record, simulated=simulated)
        self.directory.append("trace.jsonl", trace)
        if evaluation is not None:
            self._note(evaluation, record)
        self._close(state, record, trained)

    def _close(self, state: RunState, record: RoundRecord, trained: RunState | None = None) -> None:
        self.directory.append("rounds.jsonl", [record])
        self.directory.save(state)
        self.records.append(record)
        if state.round:
            self._keep(trained or state, self._is_best(state))
        self.observer.round_done(record)

    def _note(self, evaluation: Evaluation, record: TrainedRound) -> None:
        """Before the checkpoint: a round that has one has its details."""
        details = evaluation.details(self._class_names, record.round)
        best = best_round([*self.records, record])
        known = self.details.best if self.details is not None else None
        if best is not None and best.round == record.round:
            known = details
        self.details = EvaluationFile(last=details, best=known)
        write_json(self.directory.path / DETAILS, self.details.written())

    @property
    def stopped(self) -> EarlyStop | None:
        """Why the run ends after the last of its records, before its last round; None: it does
        not."""
        last = self.records[-1].round if self.records else 0
        return None if last >= self.rule.rounds > 0 else early_stop(self.records, self.rule)

    def _is_best(self, state: RunState) -> bool:
        best = best_round(self.records)
        return best is not None and best.round == state.round


def _of_details(file: EvaluationFile | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    named = {} if file is None else {"final": file.last, "best": file.best}
    for name, details in named.items():
        if details is not None and details.macro_f1 is not None:
            found[f"macro_f1_{name}"] = details.macro_f1
        if details is not None and details.device_scores:
            found[f"device_scores_{name}"] = details.device_scores
    return found


def write_summary(log: RunLog, about: dict[str, Any]) -> Summary:
    """`summary.json`: what the run was (`about`) and what it came to."""
    stopped: dict[str, Any] = {} if log.stopped is None else {"stopped_early": str(log.stopped)}
    summary = Summary(**about, **totals(log.records), **stopped, **_of_details(log.details))
    write_json(log.directory.path / "summary.json", summary.written())
    return summary
