"""Which samples are used, and which device holds which of them.

Every draw takes an explicit generator. Needs numpy alone.
"""

import numpy as np
from jaxtyping import Int, Int64

from cutlayer.errors import DataError


def draw_subset(
    labels: Int64[np.ndarray, " sample"],
    count: int,
    rng: np.random.Generator,
    balanced: bool = True,
) -> Int64[np.ndarray, " chosen"]:
    """Ascending indices of `count` samples; `balanced`: as even over the classes as they allow.

    Raises `DataError` when `count` is below 1 or above the number of samples.
    """
    raise NotImplementedError


def partition_iid(
    labels: Int64[np.ndarray, " sample"], devices: int, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, "_"], ...]:
    """Shuffled samples dealt in near-equal parts (sizes differ by one at most).

    Raises `DataError` when there are fewer samples than devices.
    """
    raise NotImplementedError


def partition_dirichlet(
    labels: Int64[np.ndarray, " sample"],
    devices: int,
    alpha: float,
    rng: np.random.Generator,
    least: int = 1,
) -> tuple[Int64[np.ndarray, "_"], ...]:
    """Each class divided over the devices in proportions drawn from Dirichlet(alpha).

    Raises `DataError` when there are fewer than `devices * least` samples or `alpha <= 0`.
    """
    raise NotImplementedError


def label_counts(
    labels: Int64[np.ndarray, " sample"], parts: tuple[Int64[np.ndarray, "_"], ...], classes: int
) -> Int64[np.ndarray, "device class"]:
    """How many samples of each class each device holds."""
    raise NotImplementedError
