"""Each sample's activations are sent once: later epochs are the server's alone."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from cutlayer.config.read import read_written
from cutlayer.errors import ConfigError
from cutlayer.jobs.prepare import Job, prepare
from cutlayer.jobs.train import resume, start
from cutlayer.rounds.schemes import SFT_CACHED, SFT_FROZEN, Phase
from cutlayer.training.activation_cache import FILE, ActivationCache, opened_cache
from cutlayer.training.expected import initial_state
from cutlayer.training.records import Observer, RoundRecord
from cutlayer.training.round import Round, RoundOutcome
from cutlayer.training.state import CacheLimits

Folders = tuple[Path, Path]
# two devices of 40 samples: an epoch is two rounds of five mini-batches of four
EPOCHS = {
    "devices": {"count": 2, "memory_mib": None},
    "partition": "iid",
    "training": {"rounds": 4, "local_steps": 5, "batch_size": 4},
}


def _job(folders: Folders, **sections: object) -> Job:
    return prepare(tiny.config(*folders, **{"scheme": "sft-cached", **EPOCHS, **sections}))


def _play(job: Job, rounds: int) -> list[RoundOutcome]:
    with opened_cache(job.setup.training, job.setup.server, None) as cache:
        return list(itertools.islice(_played(job, cache), rounds))


def _played(job: Job, cache: ActivationCache | None):  # type: ignore[no-untyped-def]
    state = initial_state(job.setup)
    while True:
        outcome = Round(job.setup, state, cache).play()
        state = outcome.state
        yield outcome


def _alone(job: Job, rounds: int) -> list[RoundOutcome]:
    """The same job by `sft-frozen`."""
    setup = replace(job.setup, training=replace(job.setup.training, scheme=SFT_FROZEN))
    return list(itertools.islice(_played(replace(job, setup=setup), None), rounds))


def test_an_epoch_is_sent_once_and_the_rest_is_the_servers_alone(vision: Folders) -> None:
    first, second, *later = _play(_job(vision), 4)
    for outcome in (first, second):
        cache = outcome.cache
        assert cache is not None
        assert (cache.hits, cache.misses, cache.evicted) == (0, 40, 0)
    for outcome in later:
        cache = outcome.cache
        assert cache is not None
        assert (cache.hits, cache.misses, cache.samples) == (40, 0, 80)
        assert outcome.round_costs.byte_counts()["uplink_bytes"] == 0
        assert outcome.round_costs.bytes_by_payload() == {}
        seconds = outcome.timeline.phase_seconds(0)
        assert not any(seconds[phase] for phase in (Phase.DEVICE_FORWARD, Phase.ACTIVATION_UP))
        assert seconds[Phase.SERVER_COMPUTE] > 0
        # server computes as long as ever
        assert seconds[Phase.SERVER_COMPUTE] == pytest.approx(
            second.timeline.phase_seconds(0)[Phase.SERVER_COMPUTE]
        )
        assert outcome.timeline.delay_s < second.timeline.delay_s


@pytest.mark.parametrize("batch", ["alone", "arrivals"])
@pytest.mark.parametrize("folders", ["vision", "bert", "llama"])
def test_it_is_sft_frozen_to_the_bit_while_packets_are_the_same(
    folders: str, batch: str, request: pytest.FixtureRequest
) -> None:
    """The first epoch with any codec; further ones with none, whatever mini-batches samples came
    in."""
    sections = {**EPOCHS, "server": {"batch": batch}, "adapter": {"rank": 2, "dropout": 0.1}}
    job = _job(request.getfixturevalue(folders), **sections)
    plans = [device.plan.steps_per_epoch for device in job.setup.devices]
    assert min(plans) >= 5, "the first round is within an epoch"
    first, frozen = _play(job, 1)[0], _alone(job, 1)[0]
    assert torch.equal(first.state.server.row, frozen.state.server.row)
    assert first.timeline.delay_s == frozen.timeline.delay_s
    assert first.round_costs.byte_counts() == frozen.round_costs.byte_counts()
    raw = _job(request.getfixturevalue(folders), **sections, codec="none")
    last, plain = _play(raw, 4)[-1], _alone(raw, 4)[-1]
    assert last.cache is not None
    assert last.cache.misses == 0
    # a forward's sums may be of another order in a mini-batch of other lengths
    torch.testing.assert_close(last.state.server.row, plain.state.server.row, rtol=0, atol=1e-5)
    if folders == "vision":
        assert torch.equal(last.state.server.row, plain.state.server.row)


@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("folders", ["vision", "llama"])
def test_a_cache_that_is_too_small_asks_for_the_rest_again(
    folders: str, micro_batches: int, request: pytest.FixtureRequest
) -> None:
    """Room for half: in every epoch the same half is held, and of a mini-batch devices forward and
    send the others alone; with no codec the adapters are those of a large cache."""
    training = {**EPOCHS["training"], "micro_batches": micro_batches}
    job = _job(request.getfixturevalue(folders), codec="none", training=training)
    count = sum(device.samples for device in job.setup.devices)
    whole = _play(job, 6)
    held = whole[-1].cache
    assert held is not None
    limits = CacheLimits(held.held_bytes // 2, 0)
    server = replace(job.setup.server, cache=limits)
    small = replace(job, setup=replace(job.setup, server=server))
    outcomes = _play(small, 6)
    figures = [outcome.cache for outcome in outcomes if outcome.cache is not None]
    assert 0.3 * count < figures[1].samples < 0.6 * count
    assert figures[-1].samples >= figures[1].samples
    assert figures[-1].held_bytes <= limits.disk_bytes
    last = figures[-1]
    assert last.hits and last.misses
    assert last.hits + last.misses == held.hits
    up = [outcome.round_costs.byte_counts()["uplink_bytes"] for outcome in outcomes]
    assert 0 < up[-1] < up[0]
    torch.testing.assert_close(
        outcomes[-1].state.server.row, whole[-1].state.server.row, rtol=0, atol=1e-5
    )


def test_a_small_device_is_asked_once_within_a_round_too(vision: Folders) -> None:
    """Ten local steps over three mini-batches: seven are the server's alone."""
    job = _job(
        vision,
        data={"train_samples": 12},
        devices={"count": 1, "memory_mib": None},
        training={"rounds": 2, "local_steps": 10},
    )
    first, second = _play(job, 2)
    assert first.cache is not None and second.cache is not None
    assert (first.cache.misses, first.cache.hits) == (12, 28)
    assert (second.cache.misses, second.cache.hits) == (0, 40)


class _StopsAfter(Observer):
    """Somebody presses Ctrl-C in the round after this one."""

    def __init__(self, ended: int) -> None:
        self._ended = ended

    def round_begins(self, number: int, rounds: int) -> None:
        """Nothing."""

    def step_done(self, round_number: int, done: int, total: int) -> None:
        """In the middle of it."""
        if round_number == self._ended + 1:
            raise KeyboardInterrupt

    def round_done(self, record: RoundRecord) -> None:
        """Nothing."""


def test_a_run_that_is_stopped_resumes_with_its_cache(vision: Folders, tmp_path: Path) -> None:
    """To the bit, from the checkpoint of any round; records say what was held."""
    config = tiny.config(*vision, scheme="sft-cached", **EPOCHS)
    whole = start(config, tmp_path / "whole").path
    assert [line["cache"]["hits"] for line in _trained(whole)] == [0, 0, 40, 40]
    for ended in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            start(config, tmp_path / str(ended), _StopsAfter(ended))
        (part,) = (tmp_path / str(ended)).iterdir()
        resume(part)
        assert _trained(part, timed=False) == _trained(whole, timed=False)
        checkpoints = [(run / "checkpoint.safetensors").read_bytes() for run in (part, whole)]
        assert checkpoints[0] == checkpoints[1]
    assert (whole / FILE).stat().st_size > 0
    assert read_written(whole / "config.yaml").scheme.name == SFT_CACHED.name


def _trained(run: Path, *, timed: bool = True) -> list[dict[str, Any]]:
    lines = tiny.read_lines(run / "rounds.jsonl")[1:]
    return [
        {key: value for key, value in line.items() if timed or key != "wall_s"} for line in lines
    ]


def test_a_codec_that_waits_for_a_sample_to_come_again_is_refused(vision: Folders) -> None:
    stages = {"name": "stages", "up": {"memory": "delta"}}
    with pytest.raises(ConfigError, match=r"codec.up.memory delta .* sends each once"):
        _job(vision, codec=stages)
    with pytest.raises(ConfigError, match=r"codec.reference_rows 100: .* set it to 0"):
        _job(vision, codec={"name": "best", "reference_rows": 100})


def test_a_device_that_was_not_asked_keeps_a_share_of_the_bandwidth(vision: Folders) -> None:
    """The last round's amounts are none, and the next one may ask it again."""
    job = _job(vision, planner="two-timescale", channel={"fading": "rayleigh"})
    assert min(_play(job, 4)[-1].shares) > 0.1
