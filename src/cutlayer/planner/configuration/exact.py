"""The best cut and compression, without iterations: (P1) comes apart.

The delay rises with the compression ratio at every cut, and nothing else ties the two together. So
the smallest ratio that is accurate enough is right for all cuts, and then the cuts are compared.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from cutlayer.planner.configuration.problem import (
    ConfigurationProblem,
    ConfigurationSolution,
    Status,
    why_no_cut,
)
from cutlayer.planner.configuration.zoom import Places, last_kept, lowest

# keep ratios tried for each number of bits, before the ends of the accurate ranges are searched
_SCANNED = 513

Points = Float64[np.ndarray, " point"]


def solve(problem: ConfigurationProblem) -> ConfigurationSolution:
    """The shortest round that keeps all limits, or why there is none.

    Neither accuracy nor ratio need rise with the keep ratio: what matters is that the accuracy
    crosses the limit at most once between two of 513 keep ratios, as it does on a monotone surface,
    and that the ratio has at most one valley between three. The ends of accurate ranges are found
    to the last bit.
    """
    if not problem.allowed.any():
        return ConfigurationSolution(Status.NO_CUT, None, why_no_cut(problem))
    scan = _scan(problem)
    if not scan.accurate.any():
        return ConfigurationSolution(Status.INACCURATE, None, _why_inaccurate(problem, scan))
    keep_ratio, bits = _smallest_ratio(problem, scan)
    delays_s = problem.delay_s(problem.compression.at(np.array([keep_ratio]), np.array([bits])))
    cut = 1 + int(np.argmin(np.where(problem.allowed, delays_s[:, 0], np.inf)))
    return ConfigurationSolution(
        Status.OPTIMAL, problem.choice(cut, keep_ratio, bits), "no allowed choice is faster"
    )


@dataclass(frozen=True, eq=False)
class _Scan:
    """Keep ratios that rise along the points, for each whole number of bits."""

    keep_ratio: Float64[np.ndarray, "bits point"]
    bits: Float64[np.ndarray, "bits point"]
    accuracy: Float64[np.ndarray, "bits point"]
    accurate: Bool[np.ndarray, "bits point"]


def _scan(problem: ConfigurationProblem) -> _Scan:
    keep_ratios = np.geomspace(*problem.box.keep_ratio, _SCANNED)
    bits, rho = np.meshgrid(problem.box.whole_bits(), keep_ratios, indexing="ij")
    accuracy = problem.surface.at(rho, bits)
    return _Scan(rho, bits, accuracy, accuracy >= problem.least_accuracy)


def _smallest_ratio(problem: ConfigurationProblem, scan: _Scan) -> tuple[float, float]:
    """Keep ratio and bits where the ratio is smallest of all accurate ones.

    At an end of an accurate range, or in a valley inside one.
    """
    end, end_bits = _ends(problem, scan)
    rho = np.concatenate([scan.keep_ratio[scan.accurate], end])
    bits = np.concatenate([scan.bits[scan.accurate], end_bits])
    best = int(np.argmin(problem.compression.at(rho, bits)))
    near = np.sort(rho[bits == bits[best]])
    place = int(np.searchsorted(near, rho[best]))
    around = near[max(place - 1, 0)], near[min(place + 1, len(near) - 1)]
    (valley,) = lowest(
        lambda rho: problem.compression.at(rho, np.full_like(rho, bits[best])),
        np.array([around[0]]),
        np.array([around[1]]),
    )
    two, q = np.array([rho[best], valley]), np.full(2, bits[best])
    ratio = problem.compression.at(two, q)
    accurate = problem.surface.at(two, q) >= problem.least_accuracy
    return float(two[np.argmin(np.where(accurate, ratio, np.inf))]), float(bits[best])


def _ends(problem: ConfigurationProblem, scan: _Scan) -> tuple[Points, Points]:
    """The ends of accurate ranges between scanned points, and their bits; on the accurate side."""
    row, left = np.nonzero(scan.accurate[:, 1:] != scan.accurate[:, :-1])
    bits, begins = scan.bits[row, left], scan.accurate[row, left]
    below, above = scan.keep_ratio[row, left], scan.keep_ratio[row, left + 1]
    inside, outside = np.where(begins, below, above), np.where(begins, above, below)

    def accurate(rho: Places) -> Bool[np.ndarray, "each place"]:
        accuracy = problem.surface.at(rho, np.broadcast_to(bits[:, None], rho.shape))
        return np.asarray(accuracy >= problem.least_accuracy)

    return last_kept(accurate, inside, outside), bits


def _why_inaccurate(problem: ConfigurationProblem, scan: _Scan) -> str:
    """The most accurate setting, which is the least that would have to be accepted."""
    best = np.unravel_index(np.argmax(scan.accuracy), scan.accuracy.shape)
    return (
        f"no keep ratio of {problem.box.keep_ratio[0]:g} to {problem.box.keep_ratio[1]:g} with"
        f" {scan.bits[0, 0]:g} to {scan.bits[-1, 0]:g} bits reaches an accuracy of"
        f" {problem.least_accuracy:.4f}: the best is {scan.accuracy[best]:.4f}, at keep ratio"
        f" {scan.keep_ratio[best]:g} and {scan.bits[best]:g} bits; ask for no more than that"
    )
