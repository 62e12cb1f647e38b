"""Fig. 9 of the paper: convergence of the two-timescale algorithm for several numbers of devices.

    python -m reproduction fig9         4 s; expected/fig9.csv, expected/fig9-claims.csv

Algorithm 2 as published and corrected, beside the exact configuration; then Algorithm 3. Analytic:
the accuracy is what the text says of Fig. 7, nothing is trained.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from math import inf
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.planner.accuracy import AccuracySurface, SettingsBox
from cutlayer.planner.allocation import bandwidth_problem, observed_work
from cutlayer.planner.bandwidth import BandwidthProblem, SolverStatus, solve_bandwidth
from cutlayer.planner.configuration import (
    ConfigurationChoice,
    ConfigurationProblem,
    EntropyRatio,
    solve_configuration,
)
from cutlayer.report.drawing import INK, MUTED, new_figure, whole_ticks
from cutlayer.rounds.schemes import SFT
from cutlayer.rounds.vit import vit_spec
from cutlayer.units import MIB
from reproduction.algorithms import (
    CorrectedAlgorithm2,
    IteratedSolution,
    PublishedAlgorithm2,
    PublishedAlgorithm3,
)
from reproduction.catalogue import Cells, Made, Options, caption, write
from reproduction.claims import CLOSE, Claim, Said, judge_larger
from reproduction.evaluation import EVALUATION, Setting, channel_of, round_works, spread_devices
from reproduction.fig6 import DEVICE_MIB

_LOG = logging.getLogger(f"cutlayer.{__name__}")

UNCOMPRESSED = 0.88
# "to limit the accuracy loss within 2 %"
LEAST_ACCURACY = 0.86
_BOX = SettingsBox((0.1, 0.5), (2.0, 8.0))


@final
@dataclass(frozen=True)
class ToldSurface(AccuracySurface):
    """`0.88 - 0.277 e^(-rho / 0.0654) - 0.384 4^-q`: made to fit three sentences.

    88 % at best; 2 points lost at 80 % sparsity and 3 bits (1.9 here); a sharp drop at 90 % (6
    points). It rises with both.
    """

    @property
    def box(self) -> SettingsBox:
        """Sparsity of 50 to 90 %, 2 to 8 bits."""
        return _BOX

    def at(
        self, keep_ratio: Float64[np.ndarray, "*point"], bits: Float64[np.ndarray, "*point"]
    ) -> Float64[np.ndarray, "*point"]:
        """See `AccuracySurface.at`."""
        _BOX.check(keep_ratio, bits)
        lost = 0.277 * np.exp(-keep_ratio / 0.0654) + 0.384 * 4.0**-bits
        return np.asarray(UNCOMPRESSED - lost)


# the paper names none for Fig. 9; 8 and 20 are those of its other figures
USER_NUMBERS = (4, 8, 12, 20)
MOST_STEPS = 60


@dataclass(frozen=True, eq=False)
class Case:
    """What each algorithm did, iteration by iteration, and the best there is.

    `deadlines_s`: the round after 0, 1, 2, ... steps of Algorithm 3 as published, from even shares;
    `best_deadline_s`: that of the best shares. Both at the `best` configuration.
    """

    devices: int
    best: ConfigurationChoice
    published: IteratedSolution
    corrected: IteratedSolution
    deadlines_s: tuple[float, ...]
    best_deadline_s: float


def case_of(devices: int) -> Case:
    """The setting with so many devices, evenly from 0.5 to 1.5 GHz."""
    setting = replace(EVALUATION, device_flops_per_s=spread_devices(devices))
    problem = configuration_of(setting)
    best = solve_configuration(problem).chosen()
    shares = shares_of(replace(setting, cut=best.cut, compression_ratio=1.0 / best.ratio))
    return Case(
        devices,
        best,
        PublishedAlgorithm2().solve(problem),
        CorrectedAlgorithm2().solve(problem),
        _deadlines_s(shares),
        solve_bandwidth(shares).deadline_s,
    )


def configuration_of(setting: Setting) -> ConfigurationProblem:
    """(P1) on even shares, without a queue at the server, as (26) has it, by round of one epoch.

    Memory by (34) against 8 GiB.
    """
    spec = vit_spec(setting.dimensions)
    cuts = range(1, spec.blocks)
    even = np.full(setting.devices, 1.0 / setting.devices)

    def rounds_s(compression_ratio: float) -> Float64[np.ndarray, "cut device"]:
        each = [replace(setting, cut=cut, compression_ratio=compression_ratio) for cut in cuts]
        return np.stack([shares_of(one).delays_s(even) for one in each])

    # nothing sent, and everything
    fixed_s, whole_s = rounds_s(np.inf), rounds_s(1.0)
    need = [setting.accounting.memory(spec, cut, setting.batch).total for cut in cuts]
    return ConfigurationProblem(
        fixed_s=fixed_s,
        per_ratio_s=whole_s - fixed_s,
        compression=EntropyRatio(),
        surface=ToldSurface(),
        least_accuracy=LEAST_ACCURACY,
        need_bytes=np.repeat(np.array(need, dtype=np.float64)[:, None], setting.devices, axis=1),
        limit_bytes=np.full(setting.devices, DEVICE_MIB * MIB),
        server_busy=np.zeros(len(cuts)),
        box=ToldSurface().box,
    )


def shares_of(setting: Setting) -> BandwidthProblem:
    """(P2) of a later round; no device is limited to less than the bandwidth."""
    observed = observed_work(SFT, round_works(setting, SFT, first_round=False))
    curves = channel_of(setting).curves(1, 0.0)
    return bandwidth_problem(observed, curves, setting.rules, np.ones(setting.devices))


def _deadlines_s(problem: BandwidthProblem) -> tuple[float, ...]:
    """Algorithm 3 stopped after each number of steps, until it ends by itself."""
    even = np.full(problem.devices, 1.0 / problem.devices)
    deadlines = [problem.deadline_s(even)]
    for steps in range(1, MOST_STEPS + 1):
        found = PublishedAlgorithm3(most_steps=steps).solve(problem, even)
        deadlines.append(found.deadline_s)
        if found.status is not SolverStatus.NOT_CONVERGED:
            break
    return tuple(deadlines)


# "K <= 30 for subgradient convergence"
MOST_ITERATIONS = Decimal("30")
_CONVERGES = "converges for every number of users"

Run = Callable[[Case], IteratedSolution]


def claims_of(cases: Sequence[Case]) -> tuple[Claim, ...]:
    """Of Algorithm 2 as published, of its corrected form, and of Algorithm 3."""

    def published(case: Case) -> IteratedSolution:
        return case.published

    def corrected(case: Case) -> IteratedSolution:
        return case.corrected

    return (
        _lagrangian(cases, "as published", published),
        _objective(cases, "as published", published),
        _lagrangian(cases, "corrected", corrected),
        _objective(cases, "corrected", corrected),
        _shares(cases),
    )


def iterations(found: IteratedSolution) -> float:
    """Until the Lagrangian stands still and all limits are kept; infinite if it never does."""
    return float(len(found.history)) if found.status is SolverStatus.CONVERGED else inf


def excess(case: Case, run: Run, at: int) -> float:
    """How far the delay of an iteration is from that of the best configuration, as a part of it."""
    return abs(run(case).history[at].choice.delay_s / case.best.delay_s - 1.0)


def _lagrangian(cases: Sequence[Case], form: str, run: Run) -> Claim:
    ours = max(iterations(run(case)) for case in cases)
    ends = [run(case).history[-1].lagrangian_s / case.best.delay_s for case in cases]
    elsewhere = "" if max(ends) < 1 + CLOSE else ": it stands still, but not at the optimum"
    said = Said(
        f"iterations until the Lagrangian stands still, Algorithm 2 {form}",
        f"at most {MOST_ITERATIONS}",
        "iterations",
        MOST_ITERATIONS,
    )
    return said.at_most(
        ours,
        f"With {_counts(cases)} devices it ends at {min(ends):.3f} to {max(ends):.3f} times the "
        f"shortest round{elsewhere}.",
        reach=inf,
    )


def _objective(cases: Sequence[Case], form: str, run: Run) -> Claim:
    worst = min(cases, key=lambda case: excess(case, run, 0) - excess(case, run, -1))
    first, last = excess(worst, run, 0), excess(worst, run, -1)
    end = run(worst).history[-1].choice
    said = Said(
        f"the round's distance from the shortest, Algorithm 2 {form}",
        _CONVERGES,
        "% of the shortest round",
    )
    return said.judged(
        100 * last,
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
    said = Said(
        "the round's distance from the shortest, Algorithm 3 as published",
        _CONVERGES,
        "% of the shortest round",
    )
    return said.judged(
        100 * far(worst, -1),
        judge_larger(far(worst, 0), far(worst, -1), noise=0.0),
        f"From even shares, without caps, {100 * far(worst, 0):.3g} % above the best with "
        f"{worst.devices} devices, and in at most {steps} steps. With caps or from random shares it"
        " often fails; a trust region corrects that.",
    )


def _counts(cases: Sequence[Case]) -> str:
    *others, last = [str(case.devices) for case in cases]
    return f"{', '.join(others)} and {last}" if others else last


# from light to dark with the number of devices
_COLOURS = ("#a9c9e6", "#6ba3d0", "#2f76b3", "#123f6b")
_LAGRANGIAN, _DELAY = "s--", "o-"
# of the shortest round [%]: below it deadlines are equal but for rounding
_EQUAL = 1e-9


def draw(cases: Sequence[Case], setting: str) -> Figure:
    """Three panels under a line that says what was computed; call it inside `plain_style`."""
    figure = new_figure(430)
    published, corrected, shares = figure.subplots(1, 3)
    for colour, case in zip(_COLOURS, cases, strict=True):
        _run(published, case, case.published, colour)
        _run(corrected, case, case.corrected, colour)
        _excess(shares, case, colour)
    published.set_title("Algorithm 2 as published")
    published.set_ylim(0, 4.4)
    corrected.set_title("Algorithm 2 corrected")
    shares.set_title("Algorithm 3 as published")
    shares.set_yscale("log")
    shares.yaxis.set_major_formatter("{x:g}")
    shares.set_ylabel("above the best shares [%]")
    for axes in (published, corrected):
        axes.set_ylabel("times the shortest round")
    end = cases[0].published.history[-1].choice
    at = f"cut {end.cut}, keep ratio {end.keep_ratio:g}, {end.bits:g} bits"
    published.text(1.0, 3.5, at, color=INK, fontsize=10.5)
    for axes, runs in (
        (published, [case.published for case in cases]),
        (corrected, [case.corrected for case in cases]),
    ):
        axes.axhline(1.0, color=INK, linewidth=1.0, zorder=0.5)
        whole_ticks(axes, 1, max(len(run.history) for run in runs))
    whole_ticks(shares, 0, max(len(case.deadlines_s) for case in cases))
    for axes in (published, corrected, shares):
        axes.set_xlabel("iteration")
        axes.margins(x=0.06)
    _legends(published, corrected)
    caption(figure, setting)
    return figure


def _run(axes: Axes, case: Case, found: IteratedSolution, colour: str) -> None:
    """Lagrangian and delay; the iterations are numbered from 1."""
    numbers = range(1, len(found.history) + 1)
    lagrangian = [step.lagrangian_s / case.best.delay_s for step in found.history]
    delay = [step.choice.delay_s / case.best.delay_s for step in found.history]
    axes.plot(numbers, lagrangian, _LAGRANGIAN, color=colour, markersize=4, linewidth=1.2)
    axes.plot(numbers, delay, _DELAY, color=colour, linewidth=1.8, label=f"{case.devices} devices")


def _excess(axes: Axes, case: Case, colour: str) -> None:
    """The deadline above that of the best shares, as long as it is."""
    excess = [100 * (each / case.best_deadline_s - 1) for each in case.deadlines_s]
    above = [each for each in excess if each > _EQUAL]
    axes.plot(range(len(above)), above, _DELAY, color=colour, linewidth=1.8)


def _legends(published: Axes, corrected: Axes) -> None:
    published.plot([], [], _DELAY, color=MUTED, label="delay")
    published.plot([], [], _LAGRANGIAN, color=MUTED, markersize=4, label="Lagrangian")
    published.plot([], [], color=INK, linewidth=1.0, label="shortest round")
    handles, labels = published.get_legend_handles_labels()
    published.legend(handles[-3:], labels[-3:], loc="center left", fontsize=10)
    corrected.legend(loc="lower right", fontsize=10)


def make(options: Options, output: Path) -> Made:
    """Run the algorithms, judge, write; no option matters."""
    _LOG.info(f"both time scales for {', '.join(map(str, USER_NUMBERS))} devices")
    cases = [case_of(devices) for devices in USER_NUMBERS]
    tables = {"fig9": [row for case in cases for row in _rows(case)]}
    one = EVALUATION
    setting = (
        f"{one.dimensions.name}, {one.samples:,} samples, {one.bandwidth_hz / 1e6:g} MHz at"
        f" {one.snr_db:g} dB, devices from 0.5 to 1.5 GHz, accuracy of {100 * LEAST_ACCURACY:g} %"
        " by what the text says of Fig. 7; nothing trained"
    )
    return write("fig9", output, setting, claims_of(cases), tables, lambda: draw(cases, setting))


def _rows(case: Case) -> Iterator[Cells]:
    """Each iteration; Algorithm 3 has shares alone, and a delay from iteration 0 on."""
    yield from _configurations(case, "2 as published", case.published)
    yield from _configurations(case, "2 corrected", case.corrected)
    for number, delay_s in enumerate(case.deadlines_s):
        yield {
            "devices": case.devices,
            "algorithm": "3 as published",
            "iteration": number,
            "delay_s": f"{delay_s:.4f}",
            "shortest_s": f"{case.best_deadline_s:.4f}",
        }


def _configurations(case: Case, name: str, found: IteratedSolution) -> Iterator[Cells]:
    for number, step in enumerate(found.history, start=1):
        choice = step.choice
        yield {
            "devices": case.devices,
            "algorithm": name,
            "iteration": number,
            "lagrangian_s": f"{step.lagrangian_s:.4f}",
            "delay_s": f"{choice.delay_s:.4f}",
            "shortest_s": f"{case.best.delay_s:.4f}",
            "cut": choice.cut,
            "keep_ratio": f"{choice.keep_ratio:.6f}",
            "bits": f"{choice.bits:g}",
            "accuracy": f"{choice.accuracy:.6f}",
            "feasible": str(step.feasible).lower(),
        }
