"""Top-K sparsification, against a sort."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.codec.sparsify import kept_counts, top_k


@pytest.mark.parametrize(
    ("size", "keep_ratio", "count"),
    [(10, 0.2, 2), (10, 0.25, 3), (10, 0.24, 2), (10, 0.01, 1), (10, 1.0, 10), (0, 0.5, 0)],
)
def test_k_is_rounded_half_up_and_at_least_one_where_there_is_a_value(size, keep_ratio, count):
    assert kept_counts(np.array([size]), keep_ratio).tolist() == [count]


# few different magnitudes, so that many are equal
samples = st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, 2.5]), max_size=12), min_size=1)


@given(samples, st.floats(0.01, 1.0))
def test_it_keeps_what_a_stable_sort_puts_first(lists, keep_ratio):
    sizes = np.array([len(values) for values in lists])
    counts = kept_counts(sizes, keep_ratio)
    expected, start = [], 0
    for values, count in zip(lists, counts.tolist(), strict=True):
        order = sorted(range(len(values)), key=lambda i: (-values[i], i))
        expected += [start + i for i in sorted(order[:count])]
        start += len(values)
    magnitudes = np.array(list(chain(*lists)), dtype=np.float32)
    assert top_k(magnitudes, sizes, counts).tolist() == expected
