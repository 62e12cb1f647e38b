"""Federated SGD on quadratics, where every constant of Theorem 1 is known.

Device n has f_n(x) = 1/2 sum_i h_ni (x_i - c_ni)^2. Knows no bound.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

# of how many runs, with how many draws of the noise, bias and variance are measured in each round
_MEASURED_RUNS, _DRAWS = 8, 64


@dataclass(frozen=True, eq=False)
class Quadratics:
    """A quadratic for each device: curvatures h and minima c."""

    curvature: Float64[np.ndarray, "device value"]
    minimum: Float64[np.ndarray, "device value"]

    @property
    def smoothness(self) -> float:
        """L of the mean F."""
        return float(self.curvature.mean(axis=0).max())

    @property
    def pl_constant(self) -> float:
        """tau of the mean F: its least curvature."""
        return float(self.curvature.mean(axis=0).min())

    @property
    def optimum(self) -> Float64[np.ndarray, " value"]:
        """Where F is least."""
        pulls = (self.curvature * self.minimum).mean(axis=0)
        return np.asarray(pulls / self.curvature.mean(axis=0))

    def gap(self, x: Float64[np.ndarray, "run value"]) -> Float64[np.ndarray, " run"]:
        """F(x) - F*."""
        away = x - self.optimum
        return np.asarray(0.5 * (away**2 @ self.curvature.mean(axis=0)))

    def start(self, gap: float) -> Float64[np.ndarray, " value"]:
        """A point of that gap, along the flattest direction: where SGD is slowest."""
        flattest = int(self.curvature.mean(axis=0).argmin())
        x = self.optimum
        x[flattest] += np.sqrt(2.0 * gap / self.pl_constant)
        return x


@dataclass(frozen=True)
class Job:
    """How to train from a gap of 1: phi^2 (`noise`) is spread evenly over a gradient's values.

    A device sends the `kept` values of its gradient of largest magnitude (None: all).
    """

    step_size: float
    rounds: int
    noise: float
    local_steps: int = 1
    kept: int | None = None


@dataclass(frozen=True, eq=False)
class Trained:
    """Means over the runs: the gap after each round (from none on); in each round, how far what
    arrives is off: the squared bias of its mean over devices, the largest variance of a device's.
    """

    gap: Float64[np.ndarray, " round_and_one"]
    bias: Float64[np.ndarray, " round"]
    variance: Float64[np.ndarray, " round"]


def train(problem: Quadratics, job: Job, runs: int, seed: int) -> Trained:
    """Train `runs` times side by side; each device has its own noise."""
    rng = np.random.default_rng(seed)
    x = np.tile(problem.start(1.0), (runs, 1))
    gaps, off = [problem.gap(x).mean()], []
    for _ in range(job.rounds):
        # whole gradients are off by their noise alone
        whole = job.kept is None
        off.append((0.0, job.noise) if whole else _measure(problem, job, x[:_MEASURED_RUNS], rng))
        own = np.repeat(x[:, None], len(problem.curvature), axis=1)
        for _ in range(job.local_steps):
            own = own - job.step_size * _arrives(problem, job, own, rng)
        x = own.mean(axis=1)
        gaps.append(problem.gap(x).mean())
    bias, variance = np.array(off).T
    return Trained(np.array(gaps), bias, variance)


def _arrives(
    problem: Quadratics,
    job: Job,
    x: Float64[np.ndarray, "*batch device value"],
    rng: np.random.Generator,
) -> Float64[np.ndarray, "*batch device value"]:
    """What arrives of each device's gradient at its own x."""
    values = x.shape[-1]
    noise = rng.normal(0.0, np.sqrt(job.noise / values), x.shape)
    gradient = problem.curvature * (x - problem.minimum) + noise
    if job.kept is not None:
        dropped = values - job.kept
        places = np.argpartition(np.abs(gradient), dropped - 1, axis=-1)[..., :dropped]
        np.put_along_axis(gradient, places, 0.0, axis=-1)
    return np.asarray(gradient)


def _measure(
    problem: Quadratics, job: Job, x: Float64[np.ndarray, "run value"], rng: np.random.Generator
) -> tuple[float, float]:
    """Squared bias and variance of what arrives at these points.

    The bias is a little too large: a mean of draws has noise of its own.
    """
    devices, values = problem.curvature.shape
    places = np.broadcast_to(x[None, :, None], (_DRAWS, len(x), devices, values))
    arrived = _arrives(problem, job, places, rng)
    expected = arrived.mean(axis=0)
    gradient = problem.curvature.mean(axis=0) * (x - problem.optimum)
    bias = ((expected.mean(axis=1) - gradient) ** 2).sum(axis=-1).mean()
    squares = ((arrived - expected) ** 2).sum(axis=-1).sum(axis=0) / (_DRAWS - 1)
    return float(bias), float(squares.mean(axis=0).max())
