"""Which device holds which samples, and which are in each mini-batch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.data.partition import (
    BatchPlan,
    draw_subset,
    label_counts,
    partition_dirichlet,
    partition_groups,
    partition_iid,
)
from cutlayer.errors import DataError

seeds = st.integers(0, 2**32)
label_arrays = st.lists(st.integers(-1, 6), min_size=1, max_size=120).map(
    lambda labels: np.array(labels, np.int64)
)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_partition(parts: tuple[np.ndarray, ...], samples: int) -> None:
    together = np.concatenate(parts)
    assert np.array_equal(np.sort(together), np.arange(samples))


@given(label_arrays, seeds, st.data())
def test_iid_deals_every_sample_to_one_device_in_even_sizes(
    labels: np.ndarray, seed: int, data: st.DataObject
) -> None:
    devices = data.draw(st.integers(1, len(labels)))
    parts = partition_iid(labels, devices, rng(seed))
    assert len(parts) == devices
    assert_partition(parts, len(labels))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@given(label_arrays, seeds, st.sampled_from([1e-3, 0.1, 1.0, 100.0]), st.data())
def test_dirichlet_deals_every_sample_to_one_device_and_none_is_left_short(
    labels: np.ndarray, seed: int, alpha: float, data: st.DataObject
) -> None:
    devices = data.draw(st.integers(1, len(labels)))
    least = data.draw(st.integers(0, len(labels) // devices))
    parts = partition_dirichlet(labels, devices, alpha, rng(seed), least)
    assert len(parts) == devices
    assert_partition(parts, len(labels))
    assert min(len(part) for part in parts) >= least
    assert all(np.array_equal(part, np.sort(part)) for part in parts)


@given(seeds)
def test_one_seed_gives_one_partition_and_another_seed_another(seed: int) -> None:
    labels = np.arange(200) % 5
    for deal in (
        lambda generator: partition_iid(labels, 7, generator),
        lambda generator: partition_dirichlet(labels, 7, 0.5, generator),
    ):
        first, again, other = deal(rng(seed)), deal(rng(seed)), deal(rng(seed + 1))
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@given(seeds)
def test_a_large_alpha_tends_to_an_even_split_of_every_class(seed: int) -> None:
    labels = np.repeat(np.arange(4), 60)
    parts = partition_dirichlet(labels, 6, 1e9, rng(seed))
    # shares are 1/6 up to about 1e-5, ends are rounded once each: a cell is off by one at most
    assert np.abs(label_counts(labels, parts, 4) - 10).max() <= 1


def test_a_small_alpha_gives_a_device_few_classes() -> None:
    labels = np.repeat(np.arange(10), 500)

    def classes_held(alpha: float) -> float:
        counts = label_counts(labels, partition_dirichlet(labels, 10, alpha, rng(3)), 10)
        return float((counts > 0.05 * counts.sum(axis=1, keepdims=True)).sum(axis=1).mean())

    assert classes_held(0.05) < 4 < 8 < classes_held(100.0)


def test_the_mean_share_of_a_device_is_even() -> None:
    # a share has mean 1/4 and variance (1/4 * 3/4) / (4 alpha + 1) = 0.0375 at alpha 1; over 400
    # draws of one class the mean's deviation is sqrt(0.0375 / 400) = 0.0097: five of them
    labels = np.zeros(1000, np.int64)
    generator = rng(0)
    sizes = np.array(
        [
            [len(part) for part in partition_dirichlet(labels, 4, 1.0, generator, least=0)]
            for _ in range(400)
        ]
    )
    assert np.abs(sizes.mean(axis=0) / 1000 - 0.25).max() < 5 * 0.0097


@given(label_arrays, seeds)
def test_label_counts_conserve_samples_and_classes(labels: np.ndarray, seed: int) -> None:
    labels = np.abs(labels)
    parts = partition_iid(labels, min(3, len(labels)), rng(seed))
    counts = label_counts(labels, parts, 7)
    assert np.array_equal(counts.sum(axis=0), np.bincount(labels, minlength=7))
    assert np.array_equal(counts.sum(axis=1), [len(part) for part in parts])


@given(label_arrays, seeds, st.booleans(), st.data())
def test_a_subset_has_the_size_asked_for_and_no_sample_twice(
    labels: np.ndarray, seed: int, balanced: bool, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(labels)))
    chosen = draw_subset(labels, count, rng(seed), balanced)
    assert len(chosen) == count
    assert (np.diff(chosen) > 0).all()
    assert 0 <= chosen[0] <= chosen[-1] < len(labels)


@given(label_arrays, seeds, st.data())
def test_a_balanced_subset_is_as_even_as_the_classes_allow(
    labels: np.ndarray, seed: int, data: st.DataObject
) -> None:
    labels = labels + 1
    count = data.draw(st.integers(1, len(labels)))
    there = np.bincount(labels, minlength=8)
    taken = np.bincount(labels[draw_subset(labels, count, rng(seed))], minlength=8)
    # a class with samples to spare is never more than one behind any other
    assert (taken[taken < there] >= taken.max() - 1).all()


@given(seeds)
def test_a_random_subset_of_one_is_uniform_over_samples_not_classes(seed: int) -> None:
    labels = np.array([0] * 99 + [1], np.int64)
    drawn = [draw_subset(labels, 1, rng(seed + n), balanced=False)[0] for n in range(40)]
    # by class, label 1 would be half of 40; by sample it is 40 in 4,000: ten or more of them
    # has a probability below 1e-9
    assert sum(int(labels[index]) for index in drawn) < 10


@pytest.mark.parametrize("count", [0, -1, 11])
def test_a_subset_of_impossible_size_is_refused(count: int) -> None:
    with pytest.raises(DataError, match=f"{count} samples asked for, there are 10"):
        draw_subset(np.zeros(10, np.int64), count, rng(0))


@pytest.mark.parametrize(("devices", "least"), [(11, 1), (4, 3), (0, 1)])
def test_too_few_samples_or_devices_are_refused(devices: int, least: int) -> None:
    with pytest.raises(DataError, match=f"{devices} devices"):
        partition_dirichlet(np.zeros(10, np.int64), devices, 1.0, rng(0), least)


def test_iid_refuses_more_devices_than_samples() -> None:
    with pytest.raises(DataError, match="3 samples are too few for 4 devices"):
        partition_iid(np.zeros(3, np.int64), 4, rng(0))


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf"), float("nan")])
def test_alpha_must_be_a_number_above_zero(alpha: float) -> None:
    with pytest.raises(DataError, match="Dirichlet alpha"):
        partition_dirichlet(np.zeros(10, np.int64), 2, alpha, rng(0))


@pytest.mark.parametrize("alpha", [1e300, 1e308, 1.7e308])
def test_an_alpha_beyond_the_range_of_sums_is_even(alpha: float) -> None:
    parts = partition_dirichlet(np.arange(64) % 2, 8, alpha, rng(0))
    assert [len(part) for part in parts] == [8] * 8


@pytest.mark.parametrize("alpha", [5e-324, 1e-300])
def test_the_smallest_alpha_gives_each_class_to_one_device(alpha: float) -> None:
    parts = partition_dirichlet(np.arange(64) % 2, 8, alpha, rng(1))
    assert sum(len(part) for part in parts) == 64
    assert sorted(len(part) for part in parts)[:6] == [1] * 6


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


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 6), st.integers(0, 9))
def test_a_value_of_a_column_is_on_one_device(values: list[int], devices: int, seed: int) -> None:
    groups, distinct = np.array(values), len(set(values))
    if distinct < devices:
        with pytest.raises(DataError, match=f"has {distinct} values, there are {devices} devices"):
            partition_groups(groups, devices, np.random.default_rng(seed))
        return
    parts = partition_groups(groups, devices, np.random.default_rng(seed))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(values)))
    owners = [set(groups[part].tolist()) for part in parts]
    assert sum(len(own) for own in owners) == distinct
    assert all(len(part) for part in parts)
    again = partition_groups(groups, devices, np.random.default_rng(seed))
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


def test_values_are_dealt_evenly_by_their_samples() -> None:
    groups = np.repeat(np.arange(5), [10, 4, 3, 2, 1])
    parts = partition_groups(groups, 2, np.random.default_rng(0))
    assert sorted(len(part) for part in parts) == [10, 10]
    others = partition_groups(groups, 2, np.random.default_rng(1))
    assert sorted(len(part) for part in others) == [10, 10]
