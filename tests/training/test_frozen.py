"""A device part that is frozen, from the start or after some rounds."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from cutlayer.errors import ConfigError
from cutlayer.jobs.prepare import Job, prepare
from cutlayer.model.losses import group_losses
from cutlayer.model.split import LiveBytes
from cutlayer.rounds.schemes import SFT, SFT_FROZEN, Phase
from cutlayer.training.exchange import group_inputs
from cutlayer.training.expected import expected_work, initial_state
from cutlayer.training.round import Round, RoundOutcome
from cutlayer.training.run_directory import RunDirectory

Folders = tuple[Path, Path]


def _job(folders: Folders, **sections: object) -> Job:
    usual = {"scheme": "sft-frozen", "optimizer": {"name": "sgd", "learning_rate": 0.05}}
    sections = usual | {"devices": {"memory_mib": None}} | sections
    return prepare(tiny.config(*folders, **sections))


def _play(job: Job, rounds: int) -> list[RoundOutcome]:
    outcomes, state = [], initial_state(job.setup)
    for _ in range(rounds):
        outcomes.append(Round(job.setup, state).play())
        state = outcomes[-1].state
    return outcomes


@pytest.mark.parametrize("folders", ["vision", "bert", "llama"])
def test_only_the_servers_blocks_are_trained_and_only_the_part_comes_down(
    folders: str, request: pytest.FixtureRequest
) -> None:
    job = _job(request.getfixturevalue(folders))
    first, second = _play(job, 2)
    assert second.state.device.row.numel() == 0
    assert not torch.equal(second.state.server.row, first.state.server.row)
    coded = {"activation", "labels"}
    for outcome, payloads in ((first, coded | {"weights"}), (second, coded)):
        sent = outcome.round_costs.bytes_by_payload()
        assert sent.keys() == payloads
        down = outcome.round_costs.byte_counts()["downlink_bytes"]
        assert down == sent.get("weights", 0)


@pytest.mark.parametrize("batch", ["alone", "arrivals"])
def test_a_step_is_that_of_the_server_part_on_what_came(vision: Folders, batch: str) -> None:
    """Played again by hand: one device, one step, no codec."""
    job = _job(
        vision,
        codec="none",
        optimizer={"name": "sgd", "learning_rate": 0.05, "momentum": 0.0},
        devices={"count": 1, "memory_mib": None},
        server={"batch": batch},
        training={"rounds": 1, "local_steps": 1},
    )
    setup, start = job.setup, initial_state(job.setup)
    own = setup.devices[0].batch(setup.devices[0].plan.indices(0))
    group = group_inputs([own])
    with torch.no_grad():
        empty = start.device.row[None]
        activation = setup.server.device_part.forward(empty, group.sizes, group.inputs)
    row = start.server.row[None].clone().requires_grad_()
    logits = setup.server.part.forward(row, group.sizes, activation, None)
    losses = group_losses(setup.training.task, logits, torch.from_numpy(own.labels), group.sizes)
    (gradient,) = torch.autograd.grad(losses.sum(), row)
    expected = row.detach() - setup.training.learning_rate * gradient
    # one multiplication and one sum, rounded once or twice
    torch.testing.assert_close(_play(job, 1)[0].state.server.row, expected[0], rtol=1e-6, atol=0)


def test_it_trains_the_same_as_sft_with_adapters_above_alone_would(vision: Folders) -> None:
    """The first step's server gradient does not depend on what the device does with its own."""
    one = {"rounds": 1, "local_steps": 1}
    frozen = _job(vision, codec="none", training=one)
    trained = _job(vision, scheme="sft", codec="none", training=one)
    # adapters begin as nothing (B is zero), so the activations are the same
    rows = [_play(job, 1)[0].state.server.row for job in (frozen, trained)]
    assert torch.equal(*rows)


def test_warm_trains_as_sft_then_sends_the_merged_adapters_down_once(vision: Folders) -> None:
    training = {"rounds": 4, "local_steps": 2}
    warm = _job(vision, scheme="sft", device_part={"name": "warm", "rounds": 2}, training=training)
    plain = _job(vision, scheme="sft", training=training)
    rounds = _play(warm, 4)
    for own, other in zip(rounds[:2], _play(plain, 2), strict=True):
        assert torch.equal(own.state.device.row, other.state.device.row)
        assert torch.equal(own.state.server.row, other.state.server.row)
    merged = rounds[1].state.device.row
    assert all(torch.equal(outcome.state.device.row, merged) for outcome in rounds[2:])
    assert not torch.equal(rounds[3].state.server.row, rounds[2].state.server.row)
    sent = [outcome.round_costs.bytes_by_payload() for outcome in rounds]
    assert sent[2].keys() == {"activation", "labels", "adapter_down"}
    assert sent[2]["adapter_down"] == sent[1]["adapter_down"]
    assert sent[3].keys() == {"activation", "labels"}
    assert rounds[3].timeline.scheme is SFT_FROZEN and rounds[1].timeline.scheme is SFT


@pytest.mark.parametrize("part", [{"name": "frozen"}, {"name": "warm", "rounds": 1}])
def test_a_state_from_its_file_goes_on_to_the_bit(
    vision: Folders, tmp_path: Path, part: dict[str, object]
) -> None:
    job = _job(vision, scheme="sft", device_part=part, training={"rounds": 3, "local_steps": 2})
    _, second, third = _play(job, 3)
    directory = RunDirectory(tmp_path)
    directory.save(second.state)
    again = Round(job.setup, directory.load()).play()
    assert torch.equal(again.state.server.row, third.state.server.row)
    assert torch.equal(again.state.device.row, third.state.device.row)


def test_both_ways_to_say_it_are_one_and_a_contradiction_is_an_error(vision: Folders) -> None:
    assert _job(vision).setup.training.scheme is SFT_FROZEN
    by_part = _job(vision, scheme="sft", device_part="frozen")
    assert by_part.setup.training.scheme is SFT_FROZEN
    with pytest.raises(ConfigError, match=r"device_part warm .* scheme"):
        _job(vision, device_part="warm")
    with pytest.raises(ConfigError, match=r"device_part\.rounds 2 of training.rounds 2"):
        part = {"name": "warm", "rounds": 2}
        _job(vision, scheme="sft", device_part=part, training={"rounds": 2})
    with pytest.raises(ConfigError, match="leave the server nothing"):
        _job(vision, adapter={"layers": [0]})


@pytest.mark.parametrize("folders", ["vision", "llama"])
def test_the_device_holds_its_weights_its_input_and_one_forward(
    folders: str, request: pytest.FixtureRequest
) -> None:
    data = request.getfixturevalue(folders)
    memory = _job(data).memory
    assert memory.device.adapters == memory.device.gradients == memory.device.optimizer == 0
    trained = _job(data, scheme="sft").memory
    assert 0 < memory.device.activations < trained.device.activations
    assert memory.server.total < trained.server.total


def test_live_bytes_are_those_of_tensors_that_are_there() -> None:
    with LiveBytes() as live:
        kept = torch.ones(1000)
        torch.ones(2000).sum()
        view = kept[:10]
        del kept
        torch.ones(500).add_(1.0)
    # a view keeps all that it views; of the two others one is there at a time
    assert live.peak == 4 * (1000 + 2000) + 4
    assert view.sum() == 10


def test_counted_works_are_the_played_ones(vision: Folders) -> None:
    """What the planner counts of a round beforehand is what the trainer enters."""
    job = _job(vision, codec="none", data={"train_samples": 80})
    setup = job.setup
    count = len(setup.devices)
    links = setup.simulation.channel.rates(1, 0.0, (1 / count,) * count)
    played = Round(setup, initial_state(setup)).play().timeline.work
    for counted, own in zip(expected_work(setup, links, first_round=True), played, strict=True):
        for phase in (Phase.DEVICE_FORWARD, Phase.SERVER_COMPUTE):
            np.testing.assert_allclose(counted.amounts[phase], own.amounts[phase])
        # what codes of weights usually take, and no small files
        heard = (each.amounts[Phase.MODEL_DISTRIBUTION] for each in (counted, own))
        np.testing.assert_allclose(*heard, rtol=0.2)
