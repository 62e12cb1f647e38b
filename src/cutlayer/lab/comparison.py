"""Predicted seconds beside measured ones, by phase and for the round as a whole.

A pure function of records: one of a predicted round, and those of the measured ones, with the keys
that `rounds.jsonl` has.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from cutlayer.report.vocabulary import PHASES, WAITS

CALIBRATED = "calibrated in round 1"
_QUEUE = "timeline"
_LINK = "channel and codec"
_ROUND = "round"


@dataclass(frozen=True)
class PhaseComparison:
    """One phase, or the round [s]. `basis`: where the prediction has its number from."""

    label: str
    predicted_s: float
    measured_s: float
    basis: str

    @property
    def difference(self) -> float | None:
        """How much longer it was than predicted, as a part of that; None: nothing was predicted."""
        return self.measured_s / self.predicted_s - 1.0 if self.predicted_s > 0 else None


@dataclass(frozen=True)
class LabComparison:
    """`phases` are those of the round's slowest device; `rounds`: which ones were measured."""

    phases: tuple[PhaseComparison, ...]
    round: PhaseComparison
    rounds: tuple[int, ...]

    def within(self, tolerance: float) -> bool:
        """Whether the measured round is that near to the predicted one."""
        difference = self.round.difference
        return difference is not None and abs(difference) <= tolerance


def compare_rounds(
    predicted: Mapping[str, Any],
    measured: Sequence[Mapping[str, Any]],
    calibrated: Collection[str],
) -> LabComparison:
    """Medians of the measured rounds beside the predicted one.

    Phases that took no time in either are left out. `calibrated`: phases whose seconds of a
    micro-batch were measured before. Raises ValueError without a measured round.
    """
    if not measured:
        raise ValueError("no round was measured")
    by_phase = {
        name: median(record["delay_by_phase_s"].get(name, 0.0) for record in measured)
        for name in PHASES
    }
    expected = predicted["delay_by_phase_s"]
    phases = tuple(
        PhaseComparison(
            PHASES[name].label, expected.get(name, 0.0), own_s, _basis(name, calibrated)
        )
        for name, own_s in by_phase.items()
        if expected.get(name, 0.0) > 0 or own_s > 0
    )
    delay_s = median(record["delay_s"] for record in measured)
    whole = PhaseComparison(_ROUND, predicted["delay_s"], delay_s, "all of it")
    return LabComparison(phases, whole, tuple(record["round"] for record in measured))


def _basis(phase: str, calibrated: Collection[str]) -> str:
    if phase in calibrated:
        return CALIBRATED
    return _QUEUE if phase in WAITS else _LINK
