"""Random instances of (P1), and the one that the paper's numbers make."""

import numpy as np

from cutlayer.planner.accuracy import (
    AccuracySurface,
    CubicSurface,
    MonotoneSurface,
    SettingsBox,
    fit_cubic,
)
from cutlayer.planner.configuration import ConfigurationProblem, EntropyRatio

KEEP_RATIOS = np.geomspace(0.05, 0.9, 7)
BITS = np.arange(1.0, 9.0)
BOX = SettingsBox((0.05, 0.9), (1.0, 8.0))


def truth(keep_ratio: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """2 % are lost at (0.2, 3), and accuracy collapses below 0.1, as the paper's Fig. 7 has it."""
    return np.asarray(0.88 - 0.277 * np.exp(-keep_ratio / 0.0654) - 0.384 * 4.0**-bits)


def rising(rng: np.random.Generator) -> MonotoneSurface:
    """Steps along both axes, some of them 0."""
    steps = rng.exponential(size=(len(KEEP_RATIOS), len(BITS))) * (rng.random((7, 8)) < 0.6)
    rises = np.cumsum(np.cumsum(steps, axis=0), axis=1)
    return MonotoneSurface(KEEP_RATIOS, BITS, 0.3 + 0.6 * rises / max(rises[-1, -1], 1e-9))


def bumpy(rng: np.random.Generator) -> CubicSurface:
    """A cubic through noise: it rises and falls."""
    rho, q = (axis.ravel() for axis in np.meshgrid(KEEP_RATIOS, BITS))
    return CubicSurface(fit_cubic(rho, q, rng.uniform(0.4, 0.9, rho.size)).coefficients, BOX)


def instance(
    rng: np.random.Generator, surface: AccuracySurface, accuracy: float
) -> ConfigurationProblem:
    """Up to 12 cuts and 4 devices of any speed; limits that some cuts break, now and then all."""
    cuts, devices = int(rng.integers(1, 13)), int(rng.integers(1, 5))
    blocks = np.arange(1, cuts + 1)[:, None]
    return ConfigurationProblem(
        fixed_s=rng.uniform(0, 100, (1, devices)) + blocks * rng.uniform(-5, 20, (1, devices)) + 60,
        per_ratio_s=rng.uniform(0, 2000, (cuts, devices)),
        compression=EntropyRatio(),
        surface=surface,
        least_accuracy=accuracy,
        need_bytes=blocks * rng.uniform(0.5, 1.5, (1, devices)),
        limit_bytes=rng.uniform(1.5, 13, devices),
        server_busy=np.sort(rng.uniform(0, 1, cuts))[::-1].copy(),
        box=BOX,
        least_cut=int(rng.integers(1, 4)),
        most_busy=float(rng.uniform(0.4, 1)),
    )


def paper_like(least_accuracy: float = 0.86) -> ConfigurationProblem:
    """11 cuts of 8 devices alike, where deeper cuts are slower and the accuracy is `truth`."""
    ratios = np.geomspace(0.05, 0.5, 24)
    surface = MonotoneSurface(ratios, BITS, truth(ratios[:, None], BITS))
    blocks = np.arange(1.0, 12.0)[:, None] * np.ones(8)
    return ConfigurationProblem(
        fixed_s=100 + 72 * blocks,
        per_ratio_s=np.full((11, 8), 2e4),
        compression=EntropyRatio(),
        surface=surface,
        least_accuracy=least_accuracy,
        need_bytes=blocks,
        limit_bytes=np.full(8, 20.0),
        server_busy=np.linspace(0.9, 0.1, 11),
        box=surface.box,
    )
