"""How near training comes to its optimum: the paper's Theorem 1, corrected, and SGD beside it.

The bound knows no model: the loss enters by its constants alone. Every gap is expected, `E
F(theta_t) - F*`. The SGD is federated, on quadratics, where every constant is known: device n has
`f_n(x) = 1/2 sum_i h_ni (x_i - c_ni)^2`.

What is corrected: Theorem 1 ends in `sum_t (1 - 2 zeta tau)^t L eta^2 phi^2 / (2 N (T - t))`. Read
as a product, N times (T - t), that falls below its own recursion (A.10), and below what SGD does.
Read as N(T - t), the devices of a round, (A.10) unrolls to N(T - 1 - t). The theorem lacks the bias
of compressed gradients; a recursion with it follows from `-<x, y> + |y|^2 / 2 = -|x|^2 / 2 +
|y - x|^2 / 2` with x = grad F and y = E g, for eta <= 1 / L.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from cutlayer.errors import ConfigError


@dataclass(frozen=True, eq=False)
class ConvergenceBound:
    """A bound on the expected gap after 0, 1, ... rounds.

    Each round takes off the part `shrink` of a gap and adds something; `floor` is where that leads
    if further rounds go on as the last one. It is 0 only without noise and bias: otherwise training
    at a constant step size ends near the optimum, not at it.
    """

    gap: Float64[np.ndarray, " round_and_one"]
    shrink: float
    floor: float


def convergence_bound(
    *,
    rounds: int,
    initial_gap: float,
    step_size: float,
    smoothness: float,
    pl_constant: float,
    noise: float | Float[np.ndarray, " round"],
    devices: int,
    bias: float | Float[np.ndarray, " round"] = 0.0,
) -> ConvergenceBound:
    """The gap of `theta <- theta - eta sum_n g_n / N` after each round, at most.

    `step_size` is eta, `devices` N. `F` is L-smooth (`smoothness`), and `||grad F||^2 >= 2 tau (F -
    F*)` (`pl_constant`). The error of a device's gradient is independent of the others', of mean
    square at most phi^2 (`noise`). Noise and bias are for all rounds, or one for each.

    - unbiased, 0 < eta < 2 / L, zeta = eta - L eta^2 / 2:
      `gap <- (1 - 2 zeta tau) gap + L eta^2 phi^2 / 2N`.
    - `||E sum_n g_n / N - grad F||^2` at most `bias` (compressed: measure it), eta <= 1 / L:
      `gap <- (1 - eta tau) gap + eta bias / 2 + L eta^2 phi^2 / 2N`.

    Not covered: more than one local step a round (devices drift apart: a term that the paper, whose
    K is nowhere in its theorem, lacks too); LoRA, whose loss in (A, B) is neither smooth nor
    gradient-dominated everywhere, and whose mean(A) mean(B) is not mean(A B); devices that take
    part at random; changing step sizes, momentum, Adam; Top-K or nearest rounding without `bias`.

    Raises ConfigError for constants outside these ranges or tau > L. Source: SFT Theorem 1 and
    Appendix A.
    """
    noises, biases = _by_round("noise", noise, rounds), _by_round("bias", bias, rounds)
    _check_problem(rounds, devices, initial_gap, smoothness, pl_constant)
    eta, L = step_size, smoothness
    shrink = _shrink(eta, L, pl_constant, biased=bool(biases.any()))
    added = eta * biases / 2.0 + L * eta**2 * noises * (1.0 / devices) / 2.0
    gap = np.empty(rounds + 1)
    gap[0] = initial_gap
    for done in range(rounds):
        gap[done + 1] = (1.0 - shrink) * gap[done] + added[done]
    return ConvergenceBound(gap, shrink, float(added[-1] / shrink))


def _shrink(eta: float, L: float, tau: float, *, biased: bool) -> float:
    """What a round takes off a gap, as a part of it: above 0, at most 1."""
    if biased:
        _check_step(eta, L, 1.0, strict=False)
        return min(eta * tau, 1.0)
    _check_step(eta, L, 2.0, strict=True)
    # tau = L and eta = 1 / L give 1, but for rounding
    return min(2.0 * (eta - L * eta**2 / 2.0) * tau, 1.0)


def _by_round(
    name: str, value: float | Float[np.ndarray, " round"], rounds: int
) -> Float64[np.ndarray, " round"]:
    values = np.asarray(value, dtype=np.float64)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ConfigError(f"the {name} must be finite and at least 0, not {value}")
    if values.ndim and len(values) != rounds:
        raise ConfigError(f"the {name} of {len(values)} rounds for {rounds} rounds")
    return np.broadcast_to(values, (rounds,))


def _check_problem(rounds: int, devices: int, initial_gap: float, L: float, tau: float) -> None:
    if rounds < 1:
        raise ConfigError(f"a bound needs at least one round, not {rounds}")
    if devices < 1:
        raise ConfigError(f"a round needs at least one device, not {devices}")
    for name, value in (("smoothness", L), ("Polyak-Lojasiewicz constant", tau)):
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"the {name} must be positive and finite, not {value}")
    if tau > L:
        raise ConfigError(
            f"the Polyak-Lojasiewicz constant {tau:g} is above the smoothness {L:g}: no function "
            "has both"
        )
    if not (initial_gap >= 0 and math.isfinite(initial_gap)):
        raise ConfigError(f"the initial gap must be finite and at least 0, not {initial_gap}")


def _check_step(eta: float, L: float, most: float, *, strict: bool) -> None:
    """0 < eta < most / L, or <= unless `strict`."""
    limit = most / L
    if not (eta > 0 and (eta < limit or (not strict and eta == limit))):
        below = "below" if strict else "at most"
        raise ConfigError(
            f"a step size must be above 0 and {below} {most:g} / smoothness = {limit:g}"
            f"{'' if strict else ' with biased gradients'}, not {eta:g}"
        )


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
