"""Top-K sparsification; the selection itself is in `test_kernels`."""

import numpy as np
import pytest

from cutlayer.codec.kernels.load import load_kernels
from cutlayer.codec.pipeline import TopK, kept_counts
from cutlayer.errors import ConfigError


@pytest.mark.parametrize(
    ("size", "keep_ratio", "count"),
    [(10, 0.2, 2), (10, 0.25, 3), (10, 0.24, 2), (10, 0.01, 1), (10, 1.0, 10), (0, 0.5, 0)],
)
def test_k_is_rounded_half_up_and_at_least_one_where_there_is_a_value(size, keep_ratio, count):
    assert kept_counts(np.array([size]), keep_ratio).tolist() == [count]


@pytest.mark.parametrize(
    ("scope", "kept"),
    [
        # a quarter of 8 values, of each of 4 tokens of 4 values, of 16 values
        ("sample", [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]]),
        ("token", [[0, 0, 0, 1], [0, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0]]),
        ("batch", [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]]),
    ],
)
def test_it_keeps_the_largest_of_each_sample_token_or_batch(scope, kept):
    values = np.array(
        [[0, 1, 2, -3], [4, 5, 6, -7], [5, 6, -6, 5], [-3, 2, 1, 0]], dtype=np.float32
    )
    sizes = np.array([8, 8])
    found = TopK(0.25, scope).kept(values, sizes, load_kernels())
    assert found.reshape(4, 4).tolist() == kept


@pytest.mark.parametrize("keep_ratio", [0.0, -0.1, 1.0001, float("nan"), float("inf")])
def test_a_keep_ratio_out_of_range_is_refused(keep_ratio):
    with pytest.raises(ConfigError, match=r"keep_ratio .*\(0, 1\]"):
        TopK(keep_ratio)
