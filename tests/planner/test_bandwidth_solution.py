"""What shares come to, whoever found them."""

import numpy as np

from cutlayer.planner.bandwidth import LimitedBy, SolverStatus, solution_of
from planner.problems import problem


def test_shares_that_are_not_the_best() -> None:
    # even shares end at 2 and 8 s; the lines that touch there bound the best by 4 s
    found = solution_of(
        problem([0.0, 0.0], [1.0, 4.0]), np.array([0.5, 0.5]), 3, SolverStatus.OPTIMAL
    )
    assert (found.deadline_s, found.lower_bound_s, found.gap) == (8.0, 4.0, 0.5)
    assert found.binding.tolist() == [1]
    assert (found.limited_by, found.steps, found.unused) == (LimitedBy.BANDWIDTH, 3, 0.0)


def test_a_device_without_its_share() -> None:
    found = solution_of(
        problem([0.0, 0.0], [1.0, 4.0]), np.array([0.25, 0.0]), 1, SolverStatus.ZERO_SHARE
    )
    assert (found.deadline_s, found.gap, found.unused) == (np.inf, np.inf, 0.75)
    assert found.binding.tolist() == [1]


def test_more_band_would_not_help_at_a_cap() -> None:
    two = problem([0.0, 0.0], [1.0, 4.0], most=[0.1, 0.9])
    found = solution_of(two, np.array([0.1, 0.9]), 1, SolverStatus.OPTIMAL)
    assert (found.deadline_s, found.limited_by) == (10.0, LimitedBy.CAP)
