import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.data.partition import BatchPlan
from cutlayer.errors import DataError

plans = st.builds(
    BatchPlan,
    samples=st.lists(st.integers(0, 999), min_size=1, max_size=40, unique=True).map(np.array),
    batch_size=st.integers(1, 50),
    seed=st.integers(0, 2**40),
    device=st.integers(0, 10_000),
)


@given(plans, st.integers(0, 3))
def test_an_epoch_sees_every_sample_once(plan: BatchPlan, epoch: int) -> None:
    first = epoch * plan.steps_per_epoch
    seen = [plan.indices(step) for step in range(first, first + plan.steps_per_epoch)]
    assert sorted(np.concatenate(seen)) == sorted(plan.samples)
    assert [len(batch) for batch in seen[:-1]] == [plan.batch_size] * (len(seen) - 1)
    assert 1 <= len(seen[-1]) <= plan.batch_size


@given(plans, st.integers(0, 500))
def test_a_step_is_a_pure_function(plan: BatchPlan, step: int) -> None:
    again = BatchPlan(plan.samples, plan.batch_size, plan.seed, plan.device)
    assert np.array_equal(plan.indices(step), again.indices(step))


def test_epochs_devices_and_seeds_have_orders_of_their_own() -> None:
    samples = np.arange(30)

    def order(seed: int, device: int, epoch: int) -> tuple[int, ...]:
        return tuple(BatchPlan(samples, 30, seed, device).indices(epoch))

    # chance gives two equal orders of 30 with probability 1/30!
    orders = {order(seed, dev, epoch) for seed in (0, 1) for dev in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 8


def test_an_order_stays_what_it_was() -> None:
    # a resumed run counts on this across versions
    plan = BatchPlan(np.arange(6), batch_size=4, seed=7, device=2)
    assert [plan.indices(step).tolist() for step in range(4)] == [
        [5, 3, 4, 1],
        [0, 2],
        [2, 3, 4, 5],
        [1, 0],
    ]


@pytest.mark.parametrize(("samples", "batch_size"), [(0, 4), (4, 0), (4, -1)])
def test_a_device_without_samples_or_batches_is_refused(samples: int, batch_size: int) -> None:
    with pytest.raises(DataError, match=f"device 3 has {samples} samples"):
        BatchPlan(np.arange(samples), batch_size, seed=0, device=3)


def test_an_epoch_is_drawn_once_and_cannot_be_changed() -> None:
    plan = BatchPlan(np.arange(6), batch_size=2, seed=7, device=2)
    first = plan.indices(0)
    assert plan.indices(1).base is first.base
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 5
    assert plan.indices(3).base is not first.base
    assert plan.indices(0).tolist() == first.tolist()
