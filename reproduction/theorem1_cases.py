"""The three trainings that Theorem 1 is held against, and the bounds beside them.

Knows the theorem's readings and no drawing. All gaps are parts of the initial gap, which is 1.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from reproduction.convergence import ConvergenceBound, convergence_bound
from reproduction.theorem1_sgd import Job, Quadratics, Trained, train

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
    """How many trainings each mean is over."""

    noisy: int
    compressed: int
    drifting: int


FULL, QUICK = Runs(400, 64, 16), Runs(20, 8, 2)


@dataclass(frozen=True, eq=False)
class Plain:
    """One local step, whole gradients: SGD, the recursion (A.10) unrolled, (14) as a product."""

    sgd: Curve
    mended: ConvergenceBound
    product: Curve
    first_round_alone: float


@dataclass(frozen=True, eq=False)
class Biased:
    """Top-K gradients on unlike data: SGD, the bound with the measured bias, (14) without one."""

    sgd: Curve
    mended: ConvergenceBound
    printed: ConvergenceBound
    bias: float


@dataclass(frozen=True, eq=False)
class Drift:
    """Several local steps on unlike data: SGD by their number, and (14), which has none."""

    sgd: dict[int, Curve]
    printed: ConvergenceBound


def plain_case(runs: Runs) -> Plain:
    """Devices with the same curvatures and minima."""
    problem = _alike()
    mended = _bound(problem, NOISY)
    alone = Quadratics(problem.curvature[:1], problem.minimum[:1])
    once = Job(NOISY.step_size, 1, NOISY.noise)
    # the first round is over at once: more runs make it sharper
    after_one = float(train(alone, once, 100 * runs.noisy, _SEED).gap[1])
    sgd = train(problem, NOISY, runs.noisy, _SEED).gap
    return Plain(sgd, mended, as_product(mended, NOISY.rounds), after_one)


def biased_case(runs: Runs) -> Biased:
    """Devices with the same curvatures and minima of their own."""
    problem = Quadratics(_alike().curvature, _minima(_UNLIKE))
    trained = train(problem, COMPRESSED, runs.compressed, _SEED)
    mended = _bound(problem, COMPRESSED, trained)
    bias = float(trained.bias[-1])
    return Biased(trained.gap, mended, _bound(problem, COMPRESSED), bias)


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
    printed, unrolled = (
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
    return float(printed.gap[1]), float(unrolled.gap[1])


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
