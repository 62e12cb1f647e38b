"""FedAvg as a weighted mean: its laws, and its refusals."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ModelError
from cutlayer.model.optimizer import FedAvg

WEIGHTS = st.lists(st.integers(1, 10_000), min_size=1, max_size=8)


@given(weights=WEIGHTS, seed=st.integers(0, 99))
def test_it_is_the_weighted_mean(weights: list[int], seed: int) -> None:
    rows = torch.randn(len(weights), 7, generator=torch.Generator().manual_seed(seed))
    shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    expected = (shares.unsqueeze(1) * rows.double()).sum(0)
    # float64 sums of at most eight terms below 5, then one rounding to float32 of at most 5
    torch.testing.assert_close(FedAvg().merge(rows, weights).double(), expected, rtol=0, atol=4e-7)


@given(weights=WEIGHTS)
def test_equal_rows_are_their_own_mean(weights: list[int]) -> None:
    row = torch.randn(5, generator=torch.Generator().manual_seed(0))
    # w_n x summed and divided in float64 is x to about 1e-15, which rounds to the float32 x
    assert torch.equal(FedAvg().merge(row.expand(len(weights), -1), weights), row)


def test_a_device_without_weight_does_not_count() -> None:
    rows = torch.tensor([[1.0, 2.0], [30.0, 40.0], [3.0, 4.0]])
    assert FedAvg().merge(rows, [1.0, 0.0, 1.0]).tolist() == [2.0, 3.0]


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0]])
def test_weights_that_give_no_mean_are_refused(weights: list[float]) -> None:
    with pytest.raises(ModelError, match="weights"):
        FedAvg().merge(torch.zeros(2, 3), weights)
