"""What the paper's text says of Fig. 9, judged for every number of devices by the worst."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from math import inf

from cutlayer.planner.configuration import ConfigurationSolution, ConfigurationStatus
from reproduction.claims import CLOSE, Claim, judge_at_most, judge_larger
from reproduction.fig9_case import Case

# "K <= 30 for subgradient convergence"
MOST_ITERATIONS = Decimal("30")
_CONVERGES = "converges for every number of users"

Run = Callable[[Case], ConfigurationSolution]


def claims_of(cases: Sequence[Case]) -> tuple[Claim, ...]:
    """Of Algorithm 2 as printed, of its mended form, and of Algorithm 3."""

    def published(case: Case) -> ConfigurationSolution:
        return case.published

    def mended(case: Case) -> ConfigurationSolution:
        return case.mended

    return (
        _lagrangian(cases, "as printed", published),
        _objective(cases, "as printed", published),
        _lagrangian(cases, "mended", mended),
        _objective(cases, "mended", mended),
        _shares(cases),
    )


def iterations(found: ConfigurationSolution) -> float:
    """Until the Lagrangian stands still and all limits are kept; infinite if it never does."""
    return float(len(found.history)) if found.status is ConfigurationStatus.CONVERGED else inf


def excess(case: Case, run: Run, at: int) -> float:
    """How far the delay of an iteration is from that of the best configuration, as a part of it."""
    return abs(run(case).history[at].choice.delay_s / case.best.delay_s - 1.0)


def _lagrangian(cases: Sequence[Case], form: str, run: Run) -> Claim:
    ours = max(iterations(run(case)) for case in cases)
    ends = [run(case).history[-1].lagrangian_s / case.best.delay_s for case in cases]
    elsewhere = "" if max(ends) < 1 + CLOSE else ": it stands still, but not at the optimum"
    return Claim(
        f"iterations until the Lagrangian stands still, Algorithm 2 {form}",
        f"at most {MOST_ITERATIONS}",
        MOST_ITERATIONS,
        ours,
        "iterations",
        judge_at_most(MOST_ITERATIONS, ours, reach=inf),
        f"With {_counts(cases)} devices it ends at {min(ends):.3f} to {max(ends):.3f} times the "
        f"shortest round{elsewhere}.",
    )


def _objective(cases: Sequence[Case], form: str, run: Run) -> Claim:
    worst = min(cases, key=lambda case: excess(case, run, 0) - excess(case, run, -1))
    first, last = excess(worst, run, 0), excess(worst, run, -1)
    end = run(worst).history[-1].choice
    return Claim(
        f"the round's distance from the shortest, Algorithm 2 {form}",
        _CONVERGES,
        None,
        100 * last,
        "% of the shortest round",
        judge_larger(first, last, noise=0.0),
        f"With {worst.devices} devices it begins {100 * first:.3g} % from the optimum and ends "
        f"{100 * last:.3g} % from it, at cut {end.cut}, keep ratio {end.keep_ratio:.3f} and "
        f"{end.bits:g} bits; the optimum is cut {worst.best.cut}, {worst.best.keep_ratio:.3f} and "
        f"{worst.best.bits:g} bits.",
    )


def _shares(cases: Sequence[Case]) -> Claim:
    def far(case: Case, at: int) -> float:
        return case.deadlines_s[at] / case.best_deadline_s - 1.0

    worst = min(cases, key=lambda case: far(case, 0) - far(case, -1))
    steps = max(len(case.deadlines_s) - 1 for case in cases)
    return Claim(
        "the round's distance from the shortest, Algorithm 3 as printed",
        _CONVERGES,
        None,
        100 * far(worst, -1),
        "% of the shortest round",
        judge_larger(far(worst, 0), far(worst, -1), noise=0.0),
        f"From even shares, without caps, {100 * far(worst, 0):.3g} % above the best with "
        f"{worst.devices} devices, and in at most {steps} steps. With caps or from random shares it"
        " often fails; a trust region mends that.",
    )


def _counts(cases: Sequence[Case]) -> str:
    *others, last = [str(case.devices) for case in cases]
    return f"{', '.join(others)} and {last}" if others else last
