"""Every open cut with a lattice of keep ratios and whole bits: where iterative solvers search.

Knows the problem and no multiplier.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from cutlayer.planner.configuration import ConfigurationProblem


@dataclass(frozen=True, eq=False)
class Lattice:
    """Settings, by how much each passes the accuracy, and the delay at each cut.

    `room`: the part of its memory that the device with least has left; negative where it lacks.
    """

    cuts: Int64[np.ndarray, " cut"]
    room: Float64[np.ndarray, " cut"]
    keep_ratio: Float64[np.ndarray, "bits point"]
    bits: Float64[np.ndarray, "bits point"]
    slack: Float64[np.ndarray, "bits point"]
    delay_s: Float64[np.ndarray, "cut bits point"]


def lattice(problem: ConfigurationProblem, points: int) -> Lattice:
    """`points` keep ratios, in equal proportions from end to end, with all whole bits."""
    keep_ratios = np.geomspace(*problem.box.keep_ratio, points)
    bits, rho = np.meshgrid(problem.box.whole_bits(), keep_ratios, indexing="ij")
    room = (1.0 - problem.need_bytes / problem.limit_bytes).min(axis=1)
    return Lattice(
        problem.cuts[problem.open],
        room[problem.open],
        rho,
        bits,
        problem.surface.at(rho, bits) - problem.least_accuracy,
        problem.delay_s(problem.compression.at(rho, bits))[problem.open],
    )
