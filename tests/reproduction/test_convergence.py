"""The corrected bound: hand values, where it is attained, and against SGD on quadratics."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ConfigError
from reproduction.convergence import convergence_bound

# contraction 1 - 2 (0.5 - 0.125) 0.2 = 0.85; a round adds 1 * 0.25 * 4 / 8 / 2 = 0.0625
HAND: dict[str, Any] = {
    "rounds": 200,
    "initial_gap": 1.0,
    "step_size": 0.5,
    "smoothness": 1.0,
    "pl_constant": 0.2,
    "noise": 4.0,
    "devices": 8,
}
VALUES = 10
CURVATURES = np.linspace(0.2, 1.0, VALUES)
# recursions of a few hundred steps, each a few roundings
ROUNDING = 1e-12


def test_by_hand() -> None:
    bound = convergence_bound(**HAND)
    # 0.85 + 0.0625; 0.85 * 0.9125 + 0.0625; 0.0625 / 0.15 = 5 / 12
    assert bound.gap[:3] == pytest.approx([1.0, 0.9125, 0.838125], rel=ROUNDING)
    assert bound.floor == pytest.approx(5 / 12, rel=ROUNDING)
    # 0.85^200 is 8e-15
    assert bound.gap[200] == pytest.approx(5 / 12, rel=1e-12)


def test_bias_by_hand() -> None:
    # contraction 1 - 0.5 * 0.2 = 0.9; a round adds 0.5 * 0.04 / 2 + 0.0625 = 0.0725
    bound = convergence_bound(**HAND, bias=0.04)
    assert bound.gap[:2] == pytest.approx([1.0, 0.9725], rel=ROUNDING)
    # bias / (2 tau) + L eta phi^2 / (2 N tau) = 0.1 + 0.625
    assert bound.floor == pytest.approx(0.725, rel=ROUNDING)
    by_round = convergence_bound(**(HAND | {"rounds": 2}), bias=np.array([0.04, 0.0]))
    assert by_round.gap[2] == pytest.approx(0.9 * 0.9725 + 0.0625, rel=ROUNDING)


@given(st.floats(0.1, 10), st.floats(0.01, 1.99), st.floats(0, 10), st.integers(1, 50))
def test_one_curvature_attains_it(
    curvature: float, part: float, noise: float, devices: int
) -> None:
    """With tau = L, E F follows the recursion itself: (1 - eta L)^2 F + L eta^2 phi^2 / (2 N)."""
    eta = part / curvature
    bound = convergence_bound(
        rounds=20,
        initial_gap=1.0,
        step_size=eta,
        smoothness=curvature,
        pl_constant=curvature,
        noise=noise,
        devices=devices,
    )
    gap = 1.0
    for ours in bound.gap[1:]:
        gap = (1 - eta * curvature) ** 2 * gap + curvature * eta**2 * noise / (2 * devices)
        # 1 - 2 zeta tau loses digits where it is near 0: errors of 1e-16 of the gap before
        assert ours == pytest.approx(gap, rel=1e-9, abs=1e-12)


def test_bias_attains_it_too() -> None:
    """One curvature, eta = 1 / L: x goes to -b / L at once, where F = b^2 / (2 L)."""
    constants = HAND | {"step_size": 0.5, "smoothness": 2.0, "pl_constant": 2.0, "noise": 0.0}
    bound = convergence_bound(**constants, bias=0.09)
    assert bound.gap[1:] == pytest.approx(np.full(200, 0.09 / 4), rel=ROUNDING)


@given(
    st.lists(st.floats(0.05, 2.0), min_size=1, max_size=8),
    st.floats(0.01, 1.99),
    st.integers(1, 8),
    st.floats(0, 5),
    st.integers(0, 2**32),
)
def test_it_holds_for_the_exact_expectation(
    curvatures: list[float], part: float, devices: int, noise: float, seed: int
) -> None:
    """A quadratic's E x_i^2 <- (1 - eta h_i)^2 E x_i^2 + eta^2 s_i^2 / N; sum s_i^2 = phi^2."""
    rng = np.random.default_rng(seed)
    h = np.array(curvatures)
    share = rng.dirichlet(np.ones(len(h)))
    squares = rng.exponential(1.0, len(h))
    eta = part / h.max()
    bound = convergence_bound(
        rounds=50,
        initial_gap=float(h @ squares / 2),
        step_size=eta,
        smoothness=float(h.max()),
        pl_constant=float(h.min()),
        noise=noise,
        devices=devices,
    )
    for most in bound.gap[1:]:
        squares = (1 - eta * h) ** 2 * squares + eta**2 * noise * share / devices
        assert h @ squares / 2 <= most * (1 + 1e-9) + 1e-12


def test_it_holds_for_simulated_sgd_and_the_product_does_not() -> None:
    """Noise of phi^2 = 4 a device; 400 runs leave an error of about 2 % of the mean gap."""
    rng = np.random.default_rng(0)
    x = np.zeros((400, VALUES))
    x[:, 0] = math.sqrt(2 / 0.2)
    gaps = [1.0]
    for _ in range(HAND["rounds"]):
        noise = rng.normal(0, math.sqrt(4 / VALUES), (400, 8, VALUES)).mean(axis=1)
        x = x - 0.5 * (CURVATURES * x + noise)
        gaps.append(float((0.5 * CURVATURES * x**2).sum(axis=1).mean()))
    bound = convergence_bound(**HAND)
    assert (np.array(gaps) <= bound.gap * (1 + ROUNDING)).all()
    # stationary: sum_i eta s^2 / (2 (2 - eta h_i)) with s^2 = 4 / 8 / 10: 0.07395
    assert np.mean(gaps[100:]) == pytest.approx(0.07395, rel=0.01)
    # N (T - t) as a product: sum 0.85^t 0.0625 / (200 - t) = 0.00215, a thirtieth of what SGD does
    product = sum(0.85**t * 0.0625 / (200 - t) for t in range(200)) + 0.85**200
    assert product == pytest.approx(0.0021464, rel=1e-4)
    assert gaps[200] > 20 * product


Compressor = Callable[[np.ndarray], np.ndarray]


def top(kept: int) -> Compressor:
    def keep(gradient: np.ndarray) -> np.ndarray:
        least = np.sort(np.abs(gradient), axis=-1)[..., -kept, None]
        return np.where(np.abs(gradient) >= least, gradient, 0.0)

    return keep


def nearest(gradient: np.ndarray) -> np.ndarray:
    return np.round(gradient / 0.5) * 0.5


def signs(gradient: np.ndarray) -> np.ndarray:
    return np.sign(gradient) * np.abs(gradient).mean(axis=-1, keepdims=True)


def compressed_descent(
    compress: Compressor, seed: int, unlike: float, rounds: int = 200, eta: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """Gaps, and the squared bias of each round, of 8 devices with exact gradients, compressed."""
    minima = np.random.default_rng(seed).normal(0, unlike, (8, VALUES))
    optimum = minima.mean(axis=0)
    x = optimum + math.sqrt(2 / CURVATURES.sum())
    gaps, biases = [1.0], []
    for _ in range(rounds):
        mean = compress(CURVATURES * (x - minima)).mean(axis=0)
        biases.append(((mean - CURVATURES * (x - optimum)) ** 2).sum())
        x = x - eta * mean
        gaps.append((CURVATURES * (x - optimum) ** 2).sum() / 2)
    return np.array(gaps), np.array(biases)


@pytest.mark.parametrize("compress", [top(5), top(2), nearest, signs])
@given(st.integers(0, 2**32), st.floats(0, 3))
def test_with_its_measured_bias_it_holds_for_compressed_gradients(
    compress: Compressor, seed: int, unlike: float
) -> None:
    gaps, biases = compressed_descent(compress, seed, unlike)
    constants = HAND | {"step_size": 0.1, "noise": 0.0}
    for measured in (biases, float(biases.max())):
        bound = convergence_bound(**constants, bias=measured)
        # two sums of VALUES terms, 200 times
        assert (gaps <= bound.gap * (1 + 1e-9) + ROUNDING).all()


@pytest.mark.parametrize("compress", [top(5), top(2), nearest, signs])
def test_without_a_bias_it_does_not(compress: Compressor) -> None:
    gaps, _ = compressed_descent(compress, seed=0, unlike=1.0)
    unbiased = convergence_bound(**(HAND | {"step_size": 0.1, "noise": 0.0}))
    assert gaps[200] > 2 * unbiased.gap[200]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "at least one round, not 0"),
        ({"initial_gap": -1.0}, "initial gap must be finite"),
        ({"initial_gap": math.nan}, "initial gap must be finite"),
        ({"step_size": 0.0}, "above 0 and below 2 / smoothness = 2, not 0"),
        ({"step_size": 2.0}, "above 0 and below 2 / smoothness = 2, not 2"),
        ({"step_size": math.nan}, "above 0 and below"),
        ({"step_size": 1.01, "bias": 0.1}, "at most 1 / smoothness = 1 with biased gradients"),
        ({"step_size": -0.1, "bias": 0.1}, "at most 1 / smoothness"),
        ({"smoothness": 0.0}, "smoothness must be positive"),
        ({"smoothness": math.inf}, "smoothness must be positive"),
        ({"pl_constant": 0.0}, "constant must be positive"),
        ({"pl_constant": math.nan}, "constant must be positive"),
        ({"pl_constant": 1.1}, r"constant 1\.1 is above the smoothness 1"),
        ({"noise": -1.0}, "noise must be finite"),
        ({"noise": math.inf}, "noise must be finite"),
        ({"noise": np.array([1.0, 2.0])}, "noise of 2 rounds for 200"),
        ({"bias": -0.1}, "bias must be finite"),
        ({"bias": math.nan}, "bias must be finite"),
        ({"bias": np.zeros(3)}, "bias of 3 rounds for 200"),
        ({"devices": 0}, "at least one device, not 0"),
    ],
)
def test_constants_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        convergence_bound(**(HAND | changes))
