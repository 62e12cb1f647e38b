"""A plan of a server that keeps activations: rounds that send, and rounds that need no device."""

from dataclasses import replace

import pytest

from cutlayer.config.schema import Config
from cutlayer.jobs.plan import plan
from cutlayer.jobs.workload import make_workload
from cutlayer.planner.forecast import forecast_rounds
from cutlayer.rounds.schemes import Phase

FORWARD = list(Phase).index(Phase.DEVICE_FORWARD)


def _config(scheme: str, **cache: float) -> Config:
    """Eight devices of 200 samples: an epoch is 13 mini-batches of 16, two rounds of ten."""
    return Config(scheme=scheme, training={"rounds": 5}, cache=cache)


def test_after_the_first_epoch_a_round_needs_no_device() -> None:
    """The first epoch is `sft-frozen`'s, the rest the server's alone."""
    frozen, cached = (
        plan(_config(scheme), fixed=True).chosen for scheme in ("sft-frozen", "sft-cached")
    )
    assert frozen is not None and cached is not None and cached.early is not None
    assert cached.workload.epoch_rounds == 2
    assert cached.first.delay_s == frozen.first.delay_s
    assert cached.first.sent == frozen.first.sent
    assert cached.early.delay_s == frozen.later.delay_s
    assert cached.early.uplink_bytes == frozen.later.uplink_bytes > 0
    assert cached.later.uplink_bytes == 0
    assert not cached.later.device_phase_s[:, FORWARD].any()
    # the server is what takes time in both
    assert cached.later.delay_s < frozen.later.delay_s
    expected = cached.first.delay_s + cached.early.delay_s + 3 * cached.later.delay_s
    assert cached.training_s == pytest.approx(expected)
    assert frozen.training_s == pytest.approx(frozen.first.delay_s + 4 * frozen.later.delay_s)


def test_what_does_not_fit_the_cache_is_sent_in_each_epoch() -> None:
    """Half of the room that all samples need: half of the bytes."""
    chosen = plan(_config("sft-cached"), fixed=True).chosen
    assert chosen is not None and chosen.early is not None
    workload, decision = chosen.workload, chosen.decision
    steps = 10 * len(workload.devices)
    one = chosen.early.uplink_bytes / (steps * workload.batch.samples)
    assert workload.samples is not None
    half = replace(workload, cache_bytes=0.5 * one * sum(workload.samples))
    forecast = forecast_rounds(half, decision)
    assert forecast.early is not None
    assert forecast.later.uplink_bytes == pytest.approx(0.5 * forecast.early.uplink_bytes)


def test_where_nobody_knows_how_many_samples_there_are_every_round_sends() -> None:
    config = _config("sft-cached")
    unknown = config.model_copy(
        update={"data": config.data.model_copy(update={"train_samples": None})}
    )
    workload = make_workload(unknown)
    assert workload.samples is None
    chosen = plan(config, fixed=True).chosen
    assert chosen is not None and chosen.early is not None
    forecast = forecast_rounds(workload, chosen.decision)
    assert forecast.early is None
    assert forecast.later.delay_s == chosen.early.delay_s
