from pathlib import Path

import pytest
import tiny
import torch

from cutlayer.jobs.codec_bench import CutProbe, device_gradient, probe, server_gradient
from cutlayer.jobs.prepare import prepare
from cutlayer.jobs.train import start
from cutlayer.model.optimizer import AdamW
from cutlayer.training.expected import initial_state


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> CutProbe:
    """Three crossings of a tiny model, after one step."""
    root = tmp_path_factory.mktemp("probe")
    model, data = tiny.vision_model(root / "model"), tiny.images(root / "images")
    return probe(tiny.config(model, data, devices={"count": 1}), warm_steps=1, kept_steps=3)


def test_the_true_tensors_give_the_gradients_that_were_trained_on(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """AdamW from fresh state, on gradients recomputed from what crossed, gives the next rows."""
    root = tmp_path_factory.mktemp("fresh")
    model, data = tiny.vision_model(root / "model"), tiny.images(root / "images")
    config = tiny.config(model, data, devices={"count": 1})
    fresh = probe(config, warm_steps=0, kept_steps=2)
    first, second = fresh.crossings
    gradients = (
        device_gradient(fresh.parts, first, first.gradient),
        server_gradient(fresh.parts, first, first.activation),
    )
    optimizer = AdamW(weight_decay=0.0)
    for before, after, gradient in zip(
        (first.device_row, first.server_row),
        (second.device_row, second.server_row),
        gradients,
        strict=True,
    ):
        row = before[None]
        rate = config.optimizer.learning_rate
        stepped, _ = optimizer.step(row, gradient[None], optimizer.init(row), rate)
        # the same operations on the same numbers, in one thread
        assert torch.equal(stepped[0], after)


def test_gradients_are_linear_in_what_comes_down(made: CutProbe) -> None:
    last = made.crossings[-1]
    once = device_gradient(made.parts, last, last.gradient)
    twice = device_gradient(made.parts, last, 2 * last.gradient)
    # doubling is exact in binary floating point, and so is every sum of doubled numbers
    assert torch.equal(twice, 2 * once)
    assert once.abs().max() > 0


def test_another_activation_gives_another_gradient(made: CutProbe) -> None:
    last = made.crossings[-1]
    true = server_gradient(made.parts, last, last.activation)
    assert torch.equal(true, server_gradient(made.parts, last, last.activation))
    assert not torch.equal(true, server_gradient(made.parts, last, 0.5 * last.activation))


def test_what_was_made_is_told(made: CutProbe) -> None:
    assert "cut after block 2" in made.source and "1 local steps" in made.source
    assert len(made.crossings) == 3


def test_it_starts_from_an_adapter_and_says_what_is_not_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The rows with which a run that starts from it begins."""
    model, data = tiny.vision_model(tmp_path / "model"), tiny.images(tmp_path / "images")
    config = tiny.config(model, data, devices={"count": 1}, training={"rounds": 1})
    run = start(config, tmp_path / "runs").path
    adapter = {"start_from": str(run), "dropout": 0.1}
    again = tiny.config(model, data, devices={"count": 1}, adapter=adapter)
    (first,) = probe(again, warm_steps=0, kept_steps=1).crossings
    state = initial_state(prepare(again).setup)
    assert torch.equal(first.device_row, state.device.row)
    assert torch.equal(first.server_row, state.server.row)
    fresh = initial_state(prepare(config).setup)
    assert not torch.equal(first.device_row, fresh.device.row)
    assert "adapter.dropout 0.1 is left out" in caplog.text
