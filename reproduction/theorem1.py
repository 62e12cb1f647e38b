"""Theorem 1 of the paper: what it bounds, what it does not, against SGD on quadratics.

    python -m reproduction theorem1     4 s; expected/theorem1.csv, expected/theorem1-claims.csv

Section III-B states it, Appendix A proves it. Analytic: nothing is trained but quadratics, on which
every constant of the theorem is known. All gaps are parts of the initial gap, which is 1.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.report.drawing import INK, new_figure
from reproduction.catalogue import Cells, Made, Options, caption, write
from reproduction.claims import Claim, Said
from reproduction.convergence import (
    ConvergenceBound,
    Job,
    Quadratics,
    Trained,
    convergence_bound,
    train,
)

_LOG = logging.getLogger(f"cutlayer.{__name__}")

DEVICES, VALUES, KEPT = 8, 10, 2
LOCAL_STEPS = (1, 5, 20, 98)
MANY_DEVICES = 64
_FLATTEST, _STEEPEST = 0.2, 1.0
_SEED = 0
# standard deviations of the devices' minima: alike enough, and unlike enough for drift to show
_UNLIKE, _MORE_UNLIKE = 1.0, 3.0
_CURVATURES = np.linspace(_FLATTEST, _STEEPEST, VALUES)

NOISY = Job(step_size=0.5, rounds=200, noise=4.0)
COMPRESSED = Job(step_size=0.1, rounds=200, noise=0.01, kept=KEPT)
DRIFTING = Job(step_size=0.1, rounds=200, noise=0.01)

Curve = Float64[np.ndarray, " round_and_one"]


@dataclass(frozen=True, eq=False)
class Runs:
    """How many runs each mean is over."""

    noisy: int
    compressed: int
    drifting: int


FULL, QUICK = Runs(400, 64, 16), Runs(20, 8, 2)


@dataclass(frozen=True, eq=False)
class Plain:
    """One local step, whole gradients: SGD, the recursion (A.10) unrolled, (14) as a product."""

    sgd: Curve
    corrected: ConvergenceBound
    product: Curve
    first_round_alone: float


@dataclass(frozen=True, eq=False)
class Biased:
    """Top-K gradients on unlike data: SGD, the bound with the measured bias, (14) without one."""

    sgd: Curve
    corrected: ConvergenceBound
    published: ConvergenceBound
    bias: float


@dataclass(frozen=True, eq=False)
class Drift:
    """Several local steps on unlike data: SGD by their number, and (14), which has none."""

    sgd: dict[int, Curve]
    published: ConvergenceBound


def plain_case(runs: Runs) -> Plain:
    """Devices with the same curvatures and minima."""
    problem = _alike()
    corrected = _bound(problem, NOISY)
    alone = Quadratics(problem.curvature[:1], problem.minimum[:1])
    once = Job(NOISY.step_size, 1, NOISY.noise)
    # the first round is over at once: more runs make it sharper
    after_one = float(train(alone, once, 100 * runs.noisy, _SEED).gap[1])
    sgd = train(problem, NOISY, runs.noisy, _SEED).gap
    return Plain(sgd, corrected, as_product(corrected, NOISY.rounds), after_one)


def biased_case(runs: Runs) -> Biased:
    """Devices with the same curvatures and minima of their own."""
    problem = Quadratics(_alike().curvature, _minima(_UNLIKE))
    trained = train(problem, COMPRESSED, runs.compressed, _SEED)
    corrected = _bound(problem, COMPRESSED, trained)
    bias = float(trained.bias[-1])
    return Biased(trained.gap, corrected, _bound(problem, COMPRESSED), bias)


def drift_case(runs: Runs) -> Drift:
    """Devices with curvatures and minima of their own."""
    curvature = np.random.default_rng(_SEED).uniform(0.05, 2.0, (DEVICES, VALUES))
    curvature *= _CURVATURES / curvature.mean(axis=0)
    problem = Quadratics(curvature, _minima(_MORE_UNLIKE))

    def sgd(steps: int) -> Curve:
        job = Job(DRIFTING.step_size, DRIFTING.rounds, DRIFTING.noise, local_steps=steps)
        return train(problem, job, runs.drifting, _SEED).gap

    return Drift({steps: sgd(steps) for steps in LOCAL_STEPS}, _bound(problem, DRIFTING))


def as_product(bound: ConvergenceBound, rounds: int) -> Curve:
    """(14) with `N(T - t)` read as N times (T - t), for T = 0, 1, ..., the same N in all rounds.

    `r^T gap_0 + sum_{t < T} r^t added / (T - t)` with r and `added` of the bound's recursion.
    """
    powers = (1.0 - bound.shrink) ** np.arange(rounds + 1)
    added = bound.floor * bound.shrink
    spread = np.convolve(powers[:-1], added / np.arange(1, rounds + 1))[:rounds]
    return np.asarray(powers * bound.gap[0] + np.concatenate([[0.0], spread]))


def first_round_bounds() -> tuple[float, float]:
    """After one round with one device, 64 in all later ones: (14) with N(T - t), and (A.10).

    (14) takes N(T - 0) = N(1) = 64, devices of the round to come; unrolled it is N(0) = 1.
    """
    published, unrolled = (
        convergence_bound(
            rounds=1,
            initial_gap=1.0,
            step_size=NOISY.step_size,
            smoothness=_STEEPEST,
            pl_constant=_FLATTEST,
            noise=NOISY.noise,
            devices=devices,
        )
        for devices in (MANY_DEVICES, 1)
    )
    return float(published.gap[1]), float(unrolled.gap[1])


def _alike() -> Quadratics:
    return Quadratics(np.tile(_CURVATURES, (DEVICES, 1)), np.zeros((DEVICES, VALUES)))


def _minima(deviation: float) -> Float64[np.ndarray, "device value"]:
    return np.random.default_rng(_SEED + 1).normal(0.0, deviation, (DEVICES, VALUES))


def _bound(problem: Quadratics, job: Job, measured: Trained | None = None) -> ConvergenceBound:
    """With the noise of the job, or with the variance and bias that were measured."""
    return convergence_bound(
        rounds=job.rounds,
        initial_gap=1.0,
        step_size=job.step_size,
        smoothness=problem.smoothness,
        pl_constant=problem.pl_constant,
        noise=job.noise if measured is None else measured.variance,
        devices=DEVICES,
        bias=0.0 if measured is None else measured.bias,
    )


_UNIT = "% of the initial gap"


def claims_of(plain: Plain, biased: Biased, drift: Drift) -> tuple[Claim, ...]:
    """The theorem in two interpretations, what the text draws from it, and what it is used for."""
    return (
        _product(plain),
        _unrolled(plain),
        _one_round_off(plain),
        _limit(plain),
        _compressed(biased),
        *(_local_steps(drift, steps) for steps in drift.sgd if steps > 1),
    )


def _product(plain: Plain) -> Claim:
    rounds = len(plain.sgd) - 1
    ours, published = _percent(plain.corrected.gap[-1]), _published(plain.product[-1])
    above = np.flatnonzero(plain.sgd > plain.product)
    broken = (
        f"SGD with just these constants is above it from round {above[0]} on and ends at "
        f"{_percent(plain.sgd[-1]):.2f} %"
        if len(above)
        else "SGD stays within it here"
    )
    said = Said(
        f"bound (14) after {rounds} rounds, N(T-t) read as N times (T-t)",
        f"at most {published} %",
        _UNIT,
        published,
    )
    return said.number(
        ours, f"The paper's own recursion (A.10) unrolls to {ours:.2f} %; {broken}.", implied=ours
    )


def _unrolled(plain: Plain) -> Claim:
    rounds = len(plain.sgd) - 1
    ours = _percent(plain.corrected.gap[-1])
    published = _published(plain.corrected.gap[-1])
    nearest = float((plain.sgd[1:] / plain.corrected.gap[1:]).max())
    said = Said(
        f"bound (14) after {rounds} rounds, N(T-t) read as the devices of a round",
        f"at most {published} %",
        _UNIT,
        published,
    )
    return said.number(
        ours,
        "With the same devices in every round it is (A.10) unrolled, and SGD with one local step "
        f"and unbiased noise keeps it: its gap is at most {nearest:.2f} of the bound in all rounds"
        f", {_percent(plain.sgd[-1]):.2f} % at the end.",
    )


def _one_round_off(plain: Plain) -> Claim:
    published, unrolled = (_percent(value) for value in first_round_bounds())
    shown = _published(published / 100)
    said = Said(
        f"bound (14) after one round with one device, {MANY_DEVICES} in later ones",
        f"at most {shown} %",
        _UNIT,
        shown,
    )
    return said.number(
        unrolled,
        f"(A.10) unrolls to N(T-1-t), not N(T-t): a round counts those who took part in it; SGD is "
        f"at {_percent(plain.first_round_alone):.1f} %.",
        implied=unrolled,
    )


def _limit(plain: Plain) -> Claim:
    tail = plain.sgd[len(plain.sgd) // 2 :]
    ours = _percent(float(tail.mean()))
    said = Said(
        "gap that SGD comes to at a constant step size",
        "0: training converges to the optimum",
        _UNIT,
        Decimal("0"),
    )
    return said.at_most(
        ours,
        "The text takes a second term that stays bounded for convergence; it is a floor, here "
        f"{_percent(plain.corrected.floor):.2f} % in the bound, that only a smaller step size, "
        "less noise or more devices lower.",
        reach=100.0,
    )


def _compressed(biased: Biased) -> Claim:
    published, ours = _published(biased.published.gap[-1]), _percent(biased.sgd[-1])
    said = Said(
        f"gap with Top-{KEPT} of {VALUES} gradient values on unlike data",
        f"at most {published} %",
        _UNIT,
        published,
    )
    return said.at_most(
        ours,
        "What Top-K drops is no unbiased noise (Assumption 3); with its squared bias as measured, "
        f"{biased.bias:.3f} at the end, the corrected bound is "
        f"{_percent(biased.corrected.gap[-1]):.2f} % and "
        f"{'holds' if _holds(biased) else 'does not hold'} in every round.",
        reach=100.0,
    )


def _local_steps(drift: Drift, steps: int) -> Claim:
    published, ours = _published(drift.published.gap[-1]), _percent(drift.sgd[steps][-1])
    said = Said(
        f"gap with {steps} local steps a round on unlike data",
        f"at most {published} %",
        _UNIT,
        published,
    )
    return said.at_most(
        ours,
        "Devices drift towards their own optima between averagings; K is in Algorithm 1 and not in "
        f"the theorem. With one step SGD ends at {_percent(drift.sgd[1][-1]):.2f} %.",
        reach=100.0,
    )


def _holds(biased: Biased) -> bool:
    # both begin at 1, but for rounding
    return bool((biased.sgd <= biased.corrected.gap * (1 + 1e-12)).all())


def _percent(gap: float) -> float:
    return 100.0 * float(gap)


def _published(gap: float) -> Decimal:
    """What (14) gives [%], to two decimals, as the paper prints its percentages."""
    return Decimal(f"{_percent(gap):.2f}")


_SGD = "#1f5a93"
_WRONG = "#c2410c"
# from light to dark with the number of local steps
_STEPS = ("#b9d3ea", "#7fb0d8", "#3f83bd", "#123f6b")


def draw(plain: Plain, biased: Biased, drift: Drift, setting: str) -> Figure:
    """Three panels under a line that says what was run; call it inside `plain_style`."""
    figure = new_figure(430)
    first, second, third = figure.subplots(1, 3, sharey=True)
    _plain(first, plain)
    _biased(second, biased)
    _drift(third, drift)
    for axes in (first, second, third):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.tick_params(axis="y", which="minor", size=0)
        axes.set_xlabel("round")
        axes.margins(x=0.02)
        axes.legend(loc="lower left", fontsize=10, handlelength=1.8)
    first.set_ylabel("gap, in % of the initial gap")
    first.set_ylim(0.011, 140)
    caption(figure, setting)
    return figure


def _plain(axes: Axes, plain: Plain) -> None:
    axes.set_title("one local step, unbiased noise")
    _line(axes, plain.corrected.gap, INK, "bound: (A.10) unrolled", "--")
    _line(axes, plain.sgd, _SGD, "SGD")
    _line(axes, plain.product, _WRONG, "(14) with N times (T-t)", ":")


def _biased(axes: Axes, biased: Biased) -> None:
    axes.set_title(f"Top-{KEPT} of {VALUES} values, unlike data")
    _line(axes, biased.corrected.gap, INK, "bound with measured bias", "--")
    _line(axes, biased.sgd, _SGD, "SGD")
    _line(axes, biased.published.gap, _WRONG, "(14): no bias", ":")


def _drift(axes: Axes, drift: Drift) -> None:
    axes.set_title("several local steps, unlike data")
    for colour, (steps, gap) in zip(_STEPS, drift.sgd.items(), strict=True):
        _line(axes, gap, colour, f"SGD, {steps} local step{'s' if steps > 1 else ''}")
    _line(axes, drift.published.gap, _WRONG, "(14): no local steps", ":")


def _line(axes: Axes, gap: Curve, colour: str, label: str, style: str = "-") -> None:
    axes.plot(np.arange(len(gap)), 100 * gap, style, color=colour, linewidth=1.8, label=label)


def make(options: Options, output: Path) -> Made:
    """Run the cases, judge, write; of the options `quick` alone matters: fewer runs a mean."""
    runs = QUICK if options.quick else FULL
    _LOG.info(
        f"SGD on quadratics: means over {runs.noisy}, {runs.compressed}, {runs.drifting} runs"
    )
    plain, biased, drift = plain_case(runs), biased_case(runs), drift_case(runs)
    tables = {"theorem1": _rows(plain, biased, drift)}
    setting = (
        f"SGD on quadratics of {VALUES} values with known constants, {DEVICES} devices"
        f"{' (quick: few runs)' if options.quick else ''}; the paper runs no test of its theorem"
    )

    def picture() -> Figure:
        return draw(plain, biased, drift, setting)

    return write("theorem1", output, setting, claims_of(plain, biased, drift), tables, picture)


def _rows(plain: Plain, biased: Biased, drift: Drift) -> Iterator[Cells]:
    """Each round; gaps are parts of the initial gap."""
    curves = {
        "sgd": plain.sgd,
        "bound": plain.corrected.gap,
        "product": plain.product,
        "top_k_sgd": biased.sgd,
        "top_k_bound": biased.corrected.gap,
        "top_k_published": biased.published.gap,
        **{f"steps_{steps}_sgd": gap for steps, gap in drift.sgd.items()},
        "steps_published": drift.published.gap,
    }
    for number in range(len(plain.sgd)):
        yield {"round": number, **{name: f"{gap[number]:.6g}" for name, gap in curves.items()}}
