"""A round in tensors: equal to centralised training where it must be, and honest in its bytes."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from cutlayer.codec.codec import EMPTY
from cutlayer.codec.raw import RawCodec, Targets, encode_targets
from cutlayer.jobs.prepare import Job, prepare
from cutlayer.model.load import load_whole
from cutlayer.model.losses import group_losses
from cutlayer.model.part_file import priced_bytes
from cutlayer.rounds.schemes import Phase
from cutlayer.training.exchange import group_inputs
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round, RoundOutcome
from cutlayer.training.run import round_record, trace_lines

Folders = tuple[Path, Path]


def _job(folders: Folders, **sections: object) -> Job:
    return prepare(tiny.config(*folders, **sections))


def _play(job: Job, rounds: int = 1) -> RoundOutcome:
    state = initial_state(job.setup)
    for _ in range(rounds):
        outcome = Round(job.setup, state).play()
        state = outcome.state
    return outcome


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_one_device_without_compression_is_centralised_training(
    vision: Folders, optimizer: str
) -> None:
    """One local step a round: FedAvg of one device is that device; bit for bit."""
    job = _job(
        vision,
        devices={"count": 1},
        codec="none",
        optimizer={"name": optimizer},
        training={"local_steps": 1},
    )
    setup, found = job.setup, job.found
    state = _play(job, rounds=3).state
    whole = load_whole(found.path, setup.training.task, job.adapter, classes=tiny.CLASSES)
    row = whole.adapted.initial_row(setup.training.seed)[None]
    memory = setup.training.optimizer.init(row)
    for step in range(3):
        batch = setup.devices[0].batch(setup.devices[0].plan.indices(step))
        group = group_inputs([batch])
        leaf = row.clone().requires_grad_()
        logits = whole.forward(leaf, group.sizes, group.inputs, group.lengths)
        group_losses(
            setup.training.task, logits, torch.from_numpy(batch.labels), group.sizes
        ).sum().backward()
        rate = setup.training.rate_of(step + 1, 0, 1)
        row, memory = setup.training.optimizer.step(row, leaf.grad, memory, rate)
    named = whole.adapted.layout.named(row[0])
    assert torch.equal(setup.server.device_part.adapted.layout.join(named), state.device.row)
    assert torch.equal(setup.server.part.adapted.layout.join(named), state.server.row)
    assert not torch.equal(initial_state(setup).device.row, state.device.row)


@pytest.mark.parametrize("folders", ["vision", "bert", "llama"])
@pytest.mark.parametrize(
    "server",
    [
        {"group": 8},
        {"group": 8, "batch": "arrivals"},
        {"group": 8, "batch": "arrivals", "batch_tokens": 40},
    ],
    ids=["alone", "arrivals", "few tokens"],
)
def test_grouped_devices_train_as_one_by_one(
    folders: str, server: dict[str, object], request: pytest.FixtureRequest
) -> None:
    """Without compression only the order of float32 sums differs; SGD keeps it proportional."""
    rows = []
    for own in ({"group": 1}, server):
        job = _job(
            request.getfixturevalue(folders),
            codec="none",
            optimizer={"name": "sgd", "learning_rate": 0.05},
            server=own,
        )
        if folders == "llama":  # few tokens count, and each device's mean is over its own
            job = replace(job, setup=tiny.with_batches(job.setup, tiny.Packed))
        state = _play(job).state
        rows.append(torch.cat([state.device.row, state.server.row]))
    start = initial_state(job.setup)
    moved = rows[0] - torch.cat([start.device.row, start.server.row])
    assert moved.norm() > 0
    # 1e-5 relative in each gradient, two steps of it
    assert (rows[0] - rows[1]).norm() <= 2e-5 * moved.norm() + 1e-7 * rows[0].norm()


def test_a_server_of_arrivals_passes_for_whom_the_clock_has_waiting_together(
    bert: Folders,
) -> None:
    """Devices are alike here, so that their first texts come at one second but for their length."""
    server = {"batch": "arrivals", "block_ms": 1e5}
    outcome = _play(_job(bert, server=server, devices={"count": 3, "flops_spread": 0.0}))
    passes = outcome.timeline.passes
    assert sum(each.mini_batches for each in passes) == 3 * 2
    # two blocks at 100 s, and next to no arithmetic
    assert {round(each.end_s - each.start_s, 6) for each in passes} == {200.0}
    assert max(each.mini_batches for each in passes) > 1
    alone = _play(_job(bert, server={"block_ms": 1e5}))
    assert alone.timeline.delay_s > 1200.0 > outcome.timeline.delay_s


def test_bytes_are_the_lengths_of_packets(vision: Folders) -> None:
    """Counted again from shapes, without compression: every payload of one round."""
    job = _job(vision, codec="none")
    setup = job.setup
    outcome = _play(job)
    batch, tokens, width, steps, devices = 4, 5, 24, 2, 3
    packet = int(RawCodec().expected_bytes((batch, tokens, width)))
    row = np.zeros(setup.server.device_part.adapted.layout.parameters, dtype=np.float32)
    adapter = len(RawCodec().encode(row, EMPTY, np.random.default_rng(0)).packet)
    labels = len(encode_targets(Targets(np.zeros(batch, dtype=np.int64)), None, tiny.CLASSES))
    assert outcome.round_costs.bytes_by_payload() == {
        "weights": priced_bytes(setup.server.device_part.adapted.frozen(), vision[0]),
        "adapter_down": adapter,
        "activation": packet * steps * devices,
        "labels": labels * steps * devices,
        "gradient": packet * steps * devices,
        "adapter_up": adapter * devices,
    }
    counts = outcome.round_costs.byte_counts()
    assert counts["uplink_bytes"] == (packet + labels) * steps * devices + adapter * devices
    assert counts["uplink_bytes"] == counts["uncompressed_uplink_bytes"]
    assert counts["downlink_bytes"] == counts["uncompressed_downlink_bytes"]
    assert sum(outcome.round_costs.bytes_by_payload().values()) == (
        counts["uplink_bytes"] + counts["downlink_bytes"]
    )
    ups = [e for e in outcome.timeline.events() if e.phase is Phase.ACTIVATION_UP]
    assert [event.payload_bytes for event in ups] == [packet + labels] * steps * devices


def test_compression_saves_bytes_and_changes_the_adapters(vision: Folders) -> None:
    codec = {"name": "paper", "keep_ratio": 0.2, "levels": 7}
    plain, packed = _play(_job(vision, codec="none")), _play(_job(vision, codec=codec))
    few, many = (o.round_costs.bytes_by_payload()["activation"] for o in (packed, plain))
    assert few < many / 5
    assert not torch.equal(plain.state.device.row, packed.state.device.row)
    assert (
        packed.round_costs.byte_counts()["uncompressed_uplink_bytes"]
        == (plain.round_costs.byte_counts()["uplink_bytes"])
    )


def test_model_is_distributed_in_the_first_round_only(vision: Folders) -> None:
    job = _job(vision)
    first = Round(job.setup, initial_state(job.setup)).play()
    second = Round(job.setup, first.state).play()
    assert "weights" in first.round_costs.bytes_by_payload()
    assert "weights" not in second.round_costs.bytes_by_payload()
    assert (
        first.timeline.phase_seconds(0)[Phase.MODEL_DISTRIBUTION]
        > (second.timeline.phase_seconds(0)[Phase.MODEL_DISTRIBUTION])
    )


def test_devices_that_have_the_weights_are_sent_none(vision: Folders) -> None:
    plain, have = (
        _play(_job(vision, devices={"count": 3, "have_weights": have})) for have in (False, True)
    )
    sent, least = (each.round_costs.bytes_by_payload() for each in (plain, have))
    assert sent.pop("weights") > 0
    assert sent == least
    assert torch.equal(plain.state.device.row, have.state.device.row)
    assert have.timeline.delay_s < plain.timeline.delay_s


def test_equal_seeds_give_equal_bits_and_other_seeds_do_not(vision: Folders) -> None:
    states = [_play(_job(vision, seed=seed)).state for seed in (0, 0, 1)]
    assert torch.equal(states[0].device.row, states[1].device.row)
    assert torch.equal(states[0].server.row, states[1].server.row)
    assert states[0].virtual_time_s == states[1].virtual_time_s
    assert not torch.equal(states[0].server.row, states[2].server.row)


def test_padding_is_never_sent(bert: Folders) -> None:
    """Texts of 2 to 9 words: the activation bytes are those of real tokens, packet frames aside."""
    job = _job(bert, codec="none", devices={"count": 2}, training={"local_steps": 3})
    setup = job.setup
    tokens = packets = 0
    for device in setup.devices:
        for step in range(device.local_steps):
            batch = device.batch(device.plan.indices(step))
            assert batch.lengths is not None and len(set(batch.lengths)) > 1
            tokens += sum(batch.lengths)
            packets += 1
    sent = _play(job).round_costs.bytes_by_payload()["activation"]
    assert 4 * 24 * tokens < sent < 4 * 24 * tokens + 100 * packets


def test_devices_with_fewer_steps_leave_earlier(vision: Folders) -> None:
    """Local epochs over uneven parts: every device makes its own number of steps."""
    job = _job(vision, partition={"name": "dirichlet", "alpha": 0.3}, training={"local_epochs": 1})
    steps = [device.local_steps for device in job.setup.devices]
    assert steps == [-(-device.samples // 4) for device in job.setup.devices]
    assert len(set(steps)) > 1
    timeline = _play(job).timeline
    assert [line.local_s.shape[0] for line in timeline.devices] == steps


def test_a_round_leaves_nothing_behind(vision: Folders) -> None:
    """No cycle keeps its rows until the collector comes: with all weights they are gigabytes."""
    job = _job(vision)
    gc.disable()
    try:
        played = Round(job.setup, initial_state(job.setup))
        played.play()
        left = weakref.ref(played)
        del played
        assert left() is None
    finally:
        gc.enable()


def test_a_round_of_some_devices_is_theirs_alone(vision: Folders) -> None:
    """Who trains beside a device is nothing to it: alone in a pass it ends where it ends in a round
    of all. Merged are those who took part, and they have all of the bandwidth."""
    config = {"devices": {"count": 4}, "server": {"group": 1}}
    apart = _job(vision, **config, aggregation="none").setup
    whole, some = (Round(apart, initial_state(apart, own)).play() for own in (None, (1, 3)))
    assert some.devices == (1, 3) and whole.devices == (0, 1, 2, 3)
    for side in ("device", "server"):
        every, own = (getattr(outcome.state, side) for outcome in (whole, some))
        assert torch.equal(own.row, every.row[[1, 3]])
        assert torch.equal(own.optimizer["mean"], every.optimizer["mean"][[1, 3]])
    assert {device for device, _ in some.state.streams} == {1, 3}
    assert sum(some.shares) == pytest.approx(1) and len(some.timeline.devices) == 2
    setup = _job(vision, **config).setup
    merged = Round(setup, initial_state(setup, (1, 3))).play()
    weights = torch.tensor([float(setup.devices[n].samples) for n in (1, 3)])
    expected = (weights[:, None] * some.state.server.row).sum(0) / weights.sum()
    assert torch.allclose(merged.state.server.row, expected, atol=1e-6)
    assert merged.state.observed.compute_s.shape == (2,)
    record = round_record(merged, 4, {"accuracy": 0.5, "eval_loss": 1.0}, 0.0)
    assert record.participants == (1, 3) and record.slowest_device in (1, 3)
    assert {line.event.device for line in trace_lines(merged)} == {1, 3}


@pytest.mark.parametrize("scheme", ["sft", "sl", "splitlora", "fl-lora"])
def test_a_round_of_all_by_number_is_a_round_of_all(scheme: str, vision: Folders) -> None:
    setup = _job(vision, scheme=scheme, adapter_codec="int8").setup
    state = initial_state(setup)
    for _ in range(2):
        every, named = (
            Round(setup, replace(state, devices=own)).play() for own in (None, (0, 1, 2))
        )
        for side in ("device", "server"):
            before, after = (getattr(outcome.state, side) for outcome in (every, named))
            assert before.tensors("").keys() == after.tensors("").keys()
            for name, value in before.tensors("").items():
                assert torch.equal(value, after.tensors("")[name])
        assert every.timeline.delay_s == named.timeline.delay_s
        assert every.round_costs.byte_counts() == named.round_costs.byte_counts()
        state = named.state
