"""Ever finer grids on valleys and conditions whose places are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.planner.configuration import last_points, lowest_points


def test_many_valleys_at_once() -> None:
    places = np.array([0.1, 0.5, 0.9, -1.0, 2.0])
    found = lowest_points(lambda x: np.abs(x - places[:, None]), np.zeros(5), np.ones(5))
    # 8^-10 of the width; beyond an end, that end is lowest
    assert found == pytest.approx([0.1, 0.5, 0.9, 0.0, 1.0], abs=1e-9)


def test_a_flat_valley_to_the_root_of_rounding() -> None:
    found = lowest_points(lambda x: 1 + (x - 0.3) ** 2, np.array([0.0]), np.array([1.0]))
    assert found[0] == pytest.approx(0.3, abs=3e-8)


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4))
def test_a_condition_ends_on_the_side_where_it_is_kept(limits: list[float]) -> None:
    limit = np.array(limits)
    up = last_points(lambda x: x <= limit[:, None], np.zeros_like(limit), np.ones_like(limit))
    down = last_points(lambda x: x >= limit[:, None], np.ones_like(limit), np.zeros_like(limit))
    assert (up <= limit).all() and (down >= limit).all()
    # a sixteenth of one unit in the last place of 1 remains
    assert up == pytest.approx(limit, abs=3e-16) and down == pytest.approx(limit, abs=3e-16)
