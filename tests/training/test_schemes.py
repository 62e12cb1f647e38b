"""Every scheme in tensors, held to what it must be equal to."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForImageClassification

from cutlayer.errors import ConfigError, UnsupportedModelError
from cutlayer.jobs.prepare import Job, prepare
from cutlayer.model.losses import group_losses
from cutlayer.rounds.schemes import SCHEMES, DeviceOrder, Phase
from cutlayer.training.exchange import group_inputs
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round, RoundOutcome

Folders = tuple[Path, Path]


def _job(folders: Folders, scheme: str, **sections: object) -> Job:
    sections = {"codec": "none", "optimizer": {"name": "sgd", "learning_rate": 0.05}} | sections
    devices = {"memory_mib": None, **dict(sections.pop("devices", {}))}  # type: ignore[call-overload]
    return prepare(tiny.config(*folders, scheme=scheme, devices=devices, **sections))


def _play(job: Job, rounds: int = 1) -> RoundOutcome:
    state = initial_state(job.setup)
    for _ in range(rounds):
        outcome = Round(job.setup, state).play()
        state = outcome.state
    return outcome


def _rows(outcome: RoundOutcome) -> Tensor:
    return torch.cat([outcome.state.device.row, outcome.state.server.row])


def _moved(job: Job, outcome: RoundOutcome) -> Tensor:
    start = initial_state(job.setup)
    return _rows(outcome) - torch.cat([start.device.row, start.server.row])


@pytest.mark.parametrize("folders", ["vision", "bert"])
def test_without_compression_parallel_schemes_end_with_the_same_adapters(
    folders: str, request: pytest.FixtureRequest
) -> None:
    """Where the work is done changes nothing: bit for bit, over two rounds."""
    data = request.getfixturevalue(folders)
    jobs = [_job(data, name) for name in ("sft", "sft-uncompressed", "splitlora-paper", "fl-lora")]
    rows = [_rows(_play(job, rounds=2)) for job in jobs]
    assert _moved(jobs[0], _play(jobs[0])).norm() > 0
    assert all(torch.equal(rows[0], other) for other in rows[1:])


def test_one_device_makes_split_learning_of_every_split_scheme(vision: Folders) -> None:
    one = {"count": 1}
    names = ("sft", "splitlora", "splitlora-paper", "sl")
    rows = [_rows(_play(_job(vision, name, devices=one), rounds=2)) for name in names]
    assert all(torch.equal(rows[0], other) for other in rows[1:])


@pytest.mark.parametrize("scheme", ["sl", "splitlora"])
def test_a_shared_server_adapter_is_stepped_in_turn(vision: Folders, scheme: str) -> None:
    """Played again by hand: the server's row passes through all mini-batches, one by one."""
    job = _job(vision, scheme, training={"rounds": 1, "local_steps": 2})
    setup, start = job.setup, initial_state(job.setup)
    count = len(setup.devices)
    devices, server = [start.device.row.clone() for _ in range(count)], start.server.row.clone()
    in_turn = SCHEMES[scheme].devices is DeviceOrder.IN_TURN
    order = [(n, k) for n in range(count) for k in range(2)]
    if not in_turn:
        order.sort(key=lambda place: place[1])
    velocity = {"server": torch.zeros_like(server)} | {
        n: torch.zeros_like(start.device.row) for n in range(count)
    }
    for n, k in order:
        if in_turn and k == 0 and n > 0:
            devices[n] = devices[n - 1].clone()
        batch = setup.devices[n].batch(setup.devices[n].plan.indices(k))
        group = group_inputs([batch])
        rows = [row.clone().requires_grad_() for row in (devices[n], server)]
        activation = setup.server.device_part.forward(rows[0][None], group.sizes, group.inputs)
        logits = setup.server.part.forward(rows[1][None], group.sizes, activation, None)
        losses = group_losses(
            setup.training.task, logits, torch.from_numpy(batch.labels), group.sizes
        )
        gradients = torch.autograd.grad(losses.sum(), rows)
        for name, gradient in ((n, gradients[0]), ("server", gradients[1])):
            velocity[name] = 0.9 * velocity[name] + gradient
        devices[n] = devices[n] - setup.training.learning_rate * velocity[n]
        server = server - setup.training.learning_rate * velocity["server"]
    state = _play(job).state
    samples = torch.tensor([float(device.samples) for device in setup.devices])
    merged = devices[-1] if in_turn else torch.stack(devices).T @ (samples / samples.sum())
    # float32 sums in another order over four steps: 1e-5 of the values
    torch.testing.assert_close(state.server.row, server, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(state.device.row, merged, rtol=1e-5, atol=1e-6)


def test_schemes_that_step_the_server_otherwise_differ(vision: Folders) -> None:
    rows = [_rows(_play(_job(vision, name))) for name in ("sft", "splitlora", "sl")]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(rows[one], rows[other])


@pytest.mark.parametrize("folders", ["vision", "bert", "llama"])
def test_micro_batches_and_holdings_change_the_order_of_sums_only(
    folders: str, request: pytest.FixtureRequest
) -> None:
    """Mini-batches of 4 in 1, 3 and 4 parts, held in every way."""
    data = request.getfixturevalue(folders)
    whole_job = _job(data, "sft")
    whole = _moved(whole_job, _play(whole_job))
    kept = None
    for parts, activation_memory in ((3, "keep"), (3, "checkpoint"), (3, "recompute"), (4, "keep")):
        training = {"rounds": 1, "local_steps": 2, "batch_size": 4, "micro_batches": parts}
        job = _job(
            data, "sft-overlap", training=training, devices={"activation_memory": activation_memory}
        )
        moved = _moved(job, _play(job))
        # two steps, each gradient within 1e-5 relative (float32 sums of a few hundred terms)
        assert (moved - whole).norm() <= 2e-5 * whole.norm()
        if parts == 3:
            kept = moved if kept is None else kept
            assert torch.equal(moved, kept)


def test_what_is_computed_twice_takes_its_seconds(vision: Folders) -> None:
    seconds = {}
    for activation_memory in ("keep", "recompute"):
        setup = _job(vision, "sft", devices={"activation_memory": activation_memory}).setup
        outcome = Round(setup, initial_state(setup)).play()
        seconds[activation_memory] = outcome.timeline.phase_seconds(0)
    kept, again = seconds["keep"], seconds["recompute"]
    twice = kept[Phase.DEVICE_BACKWARD] + kept[Phase.DEVICE_FORWARD]
    # sums of a few differences of float64 clock readings
    assert again[Phase.DEVICE_BACKWARD] == pytest.approx(twice, rel=1e-9)
    assert again[Phase.DEVICE_FORWARD] == pytest.approx(kept[Phase.DEVICE_FORWARD], rel=1e-9)


def test_full_weights_are_trained_as_torch_trains_them(vision: Folders) -> None:
    """One device, two steps of SGD with momentum, beside the library's model and optimiser."""
    job = _job(
        vision,
        "fl-full",
        devices={"count": 1},
        optimizer={"name": "sgd", "learning_rate": 0.05, "schedule": "constant"},
    )
    setup, start = job.setup, initial_state(job.setup)
    model = AutoModelForImageClassification.from_pretrained(
        job.found.path, num_labels=tiny.CLASSES, ignore_mismatched_sizes=True
    ).train(False)
    parts = (setup.server.device_part.adapted.layout, setup.server.part.adapted.layout)
    named = {**parts[0].named(start.device.row), **parts[1].named(start.server.row)}
    model.load_state_dict(named)
    assert {name for name, _ in model.named_parameters()} == set(named)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(2):
        batch = setup.devices[0].batch(setup.devices[0].plan.indices(step))
        optimizer.zero_grad()
        logits = model(torch.from_numpy(batch.inputs["pixel_values"])).logits
        functional.cross_entropy(logits, torch.from_numpy(batch.labels)).backward()
        optimizer.step()
    state = _play(job).state
    trained = {**parts[0].named(state.device.row), **parts[1].named(state.server.row)}
    for name, value in model.named_parameters():
        torch.testing.assert_close(trained[name], value.detach(), rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(trained[name], named[name]) for name in named)


def test_whole_models_send_no_activations_and_hold_everything(vision: Folders) -> None:
    split, whole = _job(vision, "sft"), _job(vision, "fl-lora")
    sent = _play(whole).round_costs.bytes_by_payload()
    assert set(sent) == {"weights", "adapter_down", "adapter_up"}
    held = sum(part.adapted.bytes for part in whole.setup.parts)
    assert 0.7 * held < sent["weights"] < held + 10_000  # a manifest, and the model's small files
    assert whole.memory.device.total == whole.memory.unsplit_bytes == split.memory.unsplit_bytes
    full = _job(vision, "fl-full")
    weights = 4 * sum(part.adapted.layout.parameters for part in full.setup.parts)
    assert full.memory.device.weights == weights
    assert _play(full).round_costs.bytes_by_payload()["adapter_up"] > 3 * weights  # and frames


def test_devices_in_turn_hand_adapters_over_and_have_the_band_alone(vision: Folders) -> None:
    job = _job(vision, "sl")
    outcome = _play(job)
    sent = outcome.round_costs.bytes_by_payload()
    assert sent["adapter_down"] == sent["adapter_up"]
    seconds = [outcome.timeline.phase_seconds(n)[Phase.TURN] for n in range(3)]
    assert seconds[0] == 0 < seconds[1] < seconds[2]
    even = _play(_job(vision, "splitlora")).timeline
    up = [t.phase_seconds(0)[Phase.ACTIVATION_UP] for t in (outcome.timeline, even)]
    # three devices share the bandwidth evenly; alone one has three times the rate
    assert up[0] == pytest.approx(up[1] / 3, rel=1e-9)


def test_less_is_held_in_parts(vision: Folders) -> None:
    def held(**sections: object) -> int:
        training = {"rounds": 1, "local_steps": 1, "batch_size": 8, **dict(sections)}
        activation_memory = training.pop("activation_memory", "keep")
        name = str(training.pop("scheme", "sft"))
        job = _job(
            vision, name, training=training, devices={"activation_memory": activation_memory}
        )
        return job.memory.device.activations

    whole = held()
    assert held(micro_batches=4) == pytest.approx(whole / 4, rel=0.01)
    assert held(micro_batches=4, scheme="sft-overlap", in_flight=2) == pytest.approx(
        whole / 2, rel=0.01
    )
    assert held(activation_memory="checkpoint") < 0.8 * whole


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"scheme": "sft", "training": {"in_flight": 2}}, "in_flight"),
        ({"scheme": "splitlora", "training": {"micro_batches": 2}}, "micro_batch"),
        ({"training": {"micro_batches": 5}}, "micro_batches 5 of training.batch_size 4"),
    ],
)
def test_settings_that_a_scheme_cannot_have(
    vision: Folders, sections: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(tiny.config(*vision, **sections))


def test_tied_weights_cannot_be_trained_in_full(tmp_path: Path, llama: Folders) -> None:
    folder = shutil.copytree(llama[0], tmp_path / "tied")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with pytest.raises(UnsupportedModelError, match="fl-lora"):
        _job((folder, llama[1]), "fl-full")
    assert _job(llama, "fl-full").setup.server.device_part.adapted.bytes == 0
