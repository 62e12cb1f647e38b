"""Local steps with every setting of theirs, against torch's own optimiser on the unsplit model."""

from pathlib import Path

import pytest
import tiny
import torch
import transformers
from torch.nn import functional

from cutlayer.errors import ConfigError, RunError
from cutlayer.jobs.prepare import prepare
from cutlayer.jobs.train import resume, start
from cutlayer.model.load import load_whole
from cutlayer.model.optimizer import AdamW
from cutlayer.training.exchange import group_inputs
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round
from cutlayer.training.state import AdapterBank, AdapterState

Folders = tuple[Path, Path]
OPTIMIZER: dict[str, object] = {
    "learning_rate": 0.02,
    "head_learning_rate": 0.1,
    "clip_norm": 0.05,
    "betas": [0.8, 0.95],
    "eps": 1e-6,
    "weight_decay": 0.1,
    "schedule": {"name": "cosine", "warmup_steps": 2},
}


@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("batch", ["alone", "arrivals"])
def test_steps_are_those_of_torch_on_the_unsplit_model(
    bert: Folders, micro_batches: int, batch: str
) -> None:
    """One device, six steps: smoothed labels, each part clipped by its own norm, a head with a rate
    of its own, warm-up and a cosine."""
    job = prepare(
        tiny.config(
            *bert,
            codec="none",
            devices={"count": 1},
            server={"batch": batch},
            optimizer=OPTIMIZER,
            training={"rounds": 3, "label_smoothing": 0.1, "micro_batches": micro_batches},
        )
    )
    setup, state = job.setup, initial_state(job.setup)
    for _ in range(3):
        state = Round(setup, state).play().state
    whole = load_whole(job.found.path, setup.training.task, job.adapter, classes=2)
    row = whole.adapted.initial_row(setup.training.seed)
    device = setup.server.device_part.adapted.layout
    values = {
        name: torch.nn.Parameter(value.clone())
        for name, value in whole.adapted.layout.named(row).items()
    }
    names = [slot.name for slot in device.slots]
    head = [name for name in values if "lora_" not in name]
    sides = [names, [name for name in values if name not in names]]
    optimiser = torch.optim.AdamW(
        [
            {"params": [values[name] for name in values if name not in head], "lr": 0.02},
            {"params": [values[name] for name in head], "lr": 0.1},
        ],
        betas=(0.8, 0.95),
        eps=1e-6,
        weight_decay=0.1,
    )
    schedule = transformers.get_cosine_schedule_with_warmup(optimiser, 2, 6)
    assert head and setup.server.part.adapted.layout.head_parameters
    for step in range(6):
        group = group_inputs([own := setup.devices[0].batch(setup.devices[0].plan.indices(step))])
        joined = torch.cat([values[slot.name].flatten() for slot in whole.adapted.layout.slots])
        logits = whole.forward(joined[None], group.sizes, group.inputs, group.lengths)
        loss = functional.cross_entropy(logits, torch.from_numpy(own.labels), label_smoothing=0.1)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        norms = [
            torch.nn.utils.clip_grad_norm_([values[name] for name in side], 0.05) for side in sides
        ]
        assert step == 0 or max(norms) > 0.05
        optimiser.step()
        schedule.step()
    trained = {name: value.detach() for name, value in values.items()}
    for part, found in zip(setup.parts, (state.device.row, state.server.row), strict=True):
        expected = part.adapted.layout.join(trained)
        begun = part.adapted.initial_row(setup.training.seed)
        # float32 sums in other orders; Adam makes steps of one size of small gradients
        moved = (found - begun).norm()
        assert moved > 0.01
        assert (found - expected).norm() <= 1e-3 * moved


def test_devices_that_differ_in_steps_each_step_at_their_own_rate() -> None:
    rows = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
    gradients = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))

    def bank() -> AdapterBank:
        made = AdapterBank(
            AdapterState(rows[0], {}), range(3), AdamW(), shared=False, device=torch.device("cpu")
        )
        made.collect((0, 1, 2), gradients)
        return made

    together, apart = bank(), bank()
    together.step({0: 0.1, 1: 0.02, 2: 0.1})
    for device, rate in enumerate((0.1, 0.02, 0.1)):
        apart.step({device: rate})
    assert torch.equal(together.rows, apart.rows)
    assert not torch.equal(together.rows[0] - rows[0], together.rows[1] - rows[0])


def test_a_schedule_by_steps_ends_with_the_rounds_that_a_run_began_with(
    bert: Folders, tmp_path: Path
) -> None:
    """Else the rates of finished rounds would be others."""
    sections: dict[str, dict[str, object]] = {
        "optimizer": OPTIMIZER,
        "training": {"rounds": 2, "label_smoothing": 0.1},
    }
    whole = start(tiny.config(*bert, **sections), tmp_path / "whole")
    with pytest.raises(
        RunError, match=r"schedule, which ends with training\.rounds, was .*rounds=2"
    ):
        resume(whole.path, changes={"training.rounds": 3})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"optimizer": {"schedule": {"name": "linear", "warmup_steps": 4}}},
            r"warmup_steps 4, but a device takes 4 steps \(2 rounds of 2\)",
        ),
        (
            {"optimizer": {"head_learning_rate": 0.1}, "adapter": {"head": False}},
            r"head_learning_rate 0\.1, but no head is trained",
        ),
    ],
)
def test_rates_that_nothing_would_be_trained_with_are_refused(
    vision: Folders, sections: dict[str, dict[str, object]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(tiny.config(*vision, **sections))


@pytest.mark.parametrize("folders", ["bert", "vision"])
def test_dropout_is_a_samples_own_whatever_it_shares(
    folders: str, request: pytest.FixtureRequest
) -> None:
    """In micro-batches, passes of groups and of arrivals, checkpointed and run again."""
    found = []
    for dropout, server, training, policy in (
        (0.4, {"group": 1}, {}, "keep"),
        (0.4, {"group": 8}, {}, "checkpoint"),
        (0.4, {"group": 8, "batch": "arrivals"}, {}, "recompute"),
        (0.4, {"group": 1, "activation_memory": "checkpoint"}, {"micro_batches": 3}, "keep"),
        (0.0, {"group": 1}, {}, "keep"),
    ):
        job = prepare(
            tiny.config(
                *request.getfixturevalue(folders),
                codec="none",
                adapter={"dropout": dropout, "patch_embedding": folders == "vision"},
                optimizer={"name": "sgd", "learning_rate": 0.5},
                server=server,
                training=training,
                devices={"activation_memory": policy},
            )
        )
        start_state = initial_state(job.setup)
        state = Round(job.setup, start_state).play().state
        found.append(torch.cat([state.device.row, state.server.row]))
    moved = found[0] - torch.cat([start_state.device.row, start_state.server.row])
    for other in found[1:4]:
        # sums of float32 in other orders, two steps of them
        assert (other - found[0]).norm() <= 1e-5 * moved.norm()
    assert (found[4] - found[0]).norm() > 1e-3 * moved.norm()


@pytest.mark.parametrize("policy", ["checkpoint", "recompute"])
def test_what_runs_again_drops_the_same(bert: Folders, policy: str) -> None:
    """To the bit: the same operations on the same values."""
    rows = []
    for own in ("keep", policy):
        job = prepare(
            tiny.config(
                *bert,
                adapter={"dropout": 0.4},
                devices={"activation_memory": own},
                server={"activation_memory": "keep" if own == "keep" else "checkpoint"},
            )
        )
        state = Round(job.setup, initial_state(job.setup)).play().state
        rows.append(torch.cat([state.device.row, state.server.row]))
    assert torch.equal(*rows)
