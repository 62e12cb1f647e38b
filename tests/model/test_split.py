"""A split model against the unsplit one, to the bit: every architecture, task and cut.

Both run the same operations in the same order on the same values, so no tolerance is needed.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cutlayer.model.load import load_device_part, load_server_part, load_whole
from cutlayer.model.lora import AdapterSpec
from cutlayer.model.split import DevicePart, ServerPart, WholeModel
from cutlayer.model.tasks import VERIFIED
from cutlayer.spec import Task
from model.architectures import (
    BLOCKS,
    CLASSES,
    batches,
    config_of,
    random_model,
    save_model,
)

ALL = [(task, model_type) for task, types in VERIFIED.items() for model_type in types]
REQUIRED = {"vit", "deit", "dinov2", "bert", "distilbert", "roberta", "gpt2", "llama", "qwen2"} | {
    "qwen3",
    "mistral",
    "opt",
}


def spec_for(task: Task) -> AdapterSpec:
    return AdapterSpec(
        rank=2,
        alpha=4.0,
        patch_embedding=task == "image-classification",
        head=task != "causal-lm",
    )


def trained_row(whole: WholeModel) -> Tensor:
    """A row in which every value, B too, is away from its initial one."""
    row = whole.initial_row(seed=3)
    return row + 0.1 * torch.randn(row.shape, generator=torch.Generator().manual_seed(4))


def weighted(logits: Tensor) -> Tensor:
    """A scalar that depends on every logit differently."""
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(5))
    return (logits * weights).sum()


def run_whole(
    whole: WholeModel,
    row: Tensor,
    inputs: dict[str, Tensor],
    lengths: Sequence[int] | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    rows = row.unsqueeze(0).clone().requires_grad_()
    logits = whole.forward(rows, [len(next(iter(inputs.values())))], inputs, lengths)
    weighted(logits).backward()
    return logits, whole.layout.named(rows.grad[0])


def run_parts(
    device: DevicePart,
    server: ServerPart,
    named: dict[str, Tensor],
    inputs: dict[str, Tensor],
    lengths: Sequence[int] | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    sizes = [len(next(iter(inputs.values())))]
    device_rows = device.layout.join(named).unsqueeze(0).requires_grad_()
    server_rows = server.layout.join(named).unsqueeze(0).requires_grad_()
    activation = device.forward(device_rows, sizes, inputs)
    received = activation.detach().requires_grad_()
    logits = server.forward(server_rows, sizes, received, lengths)
    weighted(logits).backward()
    activation.backward(received.grad)
    return logits, {
        **device.layout.named(device_rows.grad[0]),
        **server.layout.named(server_rows.grad[0]),
    }


def test_the_required_architectures_are_verified() -> None:
    assert {model_type for _, model_type in ALL} >= REQUIRED


@pytest.mark.parametrize(("task", "model_type"), ALL)
def test_split_equals_unsplit_at_every_cut(tmp_path: Path, task: Task, model_type: str) -> None:
    path = save_model(tmp_path, model_type, task)
    spec = spec_for(task)
    whole = load_whole(path, task, spec, classes=CLASSES)
    row = trained_row(whole)
    expected = [run_whole(whole, row, inputs, lengths) for inputs, lengths in batches(task)]
    for cut in range(1, BLOCKS):
        device = load_device_part(path, task, cut, spec, classes=CLASSES)
        server = load_server_part(path, task, cut, spec, classes=CLASSES)
        assert device.layout.slots + server.layout.slots
        for (logits, gradients), (inputs, lengths) in zip(expected, batches(task), strict=True):
            named = whole.layout.named(row)
            split_logits, split_gradients = run_parts(device, server, named, inputs, lengths)
            assert torch.equal(split_logits, logits)
            assert split_gradients.keys() == gradients.keys()
            for name, gradient in gradients.items():
                assert torch.equal(split_gradients[name], gradient), name
                assert gradient.any(), f"{name} is not trained"


@pytest.mark.parametrize(("task", "model_type"), ALL)
def test_an_untrained_adapter_changes_nothing(tmp_path: Path, task: Task, model_type: str) -> None:
    config = config_of(model_type)
    model = random_model(config, task)
    model.save_pretrained(tmp_path)
    whole = load_whole(tmp_path, task, spec_for(task), classes=CLASSES)
    rows = whole.initial_row(seed=0).unsqueeze(0)
    for inputs, lengths in batches(task):
        given: dict[str, object] = dict(inputs)
        if config.model_type in ("vit", "deit", "ijepa", "vit_msn"):
            given["interpolate_pos_encoding"] = inputs["pixel_values"].shape[-1] != 16
        if lengths is not None and config.pad_token_id is not None:
            given["input_ids"] = inputs["input_ids"].where(
                inputs["attention_mask"] != 0, config.pad_token_id
            )
        with torch.no_grad():
            expected = model(**given).logits
            logits = whole.forward(rows, [4], inputs, lengths)
        if lengths is not None and task == "causal-lm":
            real = inputs["attention_mask"] != 0
            expected, logits = expected[real], logits[real]
        assert torch.equal(logits, expected)
