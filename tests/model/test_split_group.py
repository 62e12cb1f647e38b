"""One pass for several devices against one pass for each.

Products of float32 matrices of at most a few hundred terms, summed in another order: each rounds
by about 1e-7 relative to its largest term, and three blocks amplify that by less than 100.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cutlayer.model.load import load_device_part, load_server_part
from cutlayer.model.split import DevicePart, ServerPart
from cutlayer.spec import Task
from model.architectures import CLASSES, LENGTHS, image_batch, save_model, text_batch
from model.runs import full_spec, gradient_of, scalar, trained_row

CASES: list[tuple[Task, str, Mapping[str, Tensor], Sequence[int] | None]] = [
    ("image-classification", "vit", image_batch(), None),
    ("image-classification", "dinov2", image_batch(side=24), None),
    ("text-classification", "bert", text_batch(LENGTHS), LENGTHS),
    ("text-classification", "distilbert", text_batch(LENGTHS), LENGTHS),
    ("text-classification", "roberta", text_batch(LENGTHS), LENGTHS),
    ("text-classification", "gpt2", text_batch(LENGTHS), LENGTHS),
    ("causal-lm", "gpt2", text_batch(LENGTHS), LENGTHS),
    ("causal-lm", "llama", text_batch(), None),
    ("causal-lm", "opt", text_batch(LENGTHS), LENGTHS),
]


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def pass_of(
    device: DevicePart,
    server: ServerPart,
    rows: tuple[Tensor, Tensor],
    sizes: Sequence[int],
    inputs: Mapping[str, Tensor],
    lengths: Sequence[int] | None,
) -> tuple[Tensor, ...]:
    """Activation, its gradient, logits, and the gradients of both sides' rows."""
    device_rows, server_rows = (row.clone().requires_grad_() for row in rows)
    activation = device.forward(device_rows, sizes, inputs)
    received = activation.detach().requires_grad_()
    logits = server.forward(server_rows, sizes, received, lengths)
    sum(scalar(part) for part in torch.split(logits, 1)).backward()
    activation.backward(gradient_of(received))
    return (
        activation.detach(),
        gradient_of(received),
        logits.detach(),
        gradient_of(device_rows),
        gradient_of(server_rows),
    )


@dataclass(frozen=True)
class Case:
    device: DevicePart
    server: ServerPart
    inputs: Mapping[str, Tensor]
    lengths: Sequence[int] | None


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    task, model_type, inputs, lengths = request.param
    path = save_model(tmp_path_factory.mktemp("model"), model_type, task)
    device = load_device_part(path, task, 1, full_spec(task), classes=CLASSES)
    server = load_server_part(path, task, 1, full_spec(task), classes=CLASSES)
    return Case(device, server, inputs, lengths)


@pytest.mark.parametrize("sizes", [[2, 2], [1, 1, 1, 1], [1, 3], [2, 1, 1]], ids=str)
def test_group_equals_devices_one_by_one(case: Case, sizes: list[int]) -> None:
    device, server, inputs, lengths = case.device, case.server, case.inputs, case.lengths
    rows = tuple(
        torch.stack([trained_row(part, seed) for seed in range(len(sizes))])
        for part in (device, server)
    )
    grouped = pass_of(device, server, (rows[0], rows[1]), sizes, inputs, lengths)
    alone = []
    for number, (first, size) in enumerate(
        zip([sum(sizes[:n]) for n in range(len(sizes))], sizes, strict=True)
    ):
        own = slice(first, first + size)
        part = {name: value[own] for name, value in inputs.items()}
        own_rows = (rows[0][number : number + 1], rows[1][number : number + 1])
        own_lengths = None if lengths is None else lengths[own]
        alone.append(pass_of(device, server, own_rows, [size], part, own_lengths))
    for found, pieces in zip(grouped, zip(*alone, strict=True), strict=True):
        assert_close(found, torch.cat(pieces))


def test_padding_to_the_longest_of_a_group_changes_nothing(tmp_path: Path) -> None:
    """A device whose texts are short pads to its neighbours': its real tokens stay the same."""
    path = save_model(tmp_path, "llama", "text-classification")
    task: Task = "text-classification"
    device = load_device_part(path, task, 1, full_spec(task), classes=CLASSES)
    server = load_server_part(path, task, 1, full_spec(task), classes=CLASSES)
    rows = (trained_row(device).unsqueeze(0), trained_row(server).unsqueeze(0))
    lengths = [3, 2, 3, 1]
    padded = text_batch(lengths)
    short = {name: value[:, :3] for name, value in padded.items()}
    long = pass_of(device, server, rows, [4], padded, lengths)
    own = pass_of(device, server, rows, [4], short, lengths)
    real = short["attention_mask"] != 0
    assert_close(long[0][:, :3][real], own[0][real])
    for found, expected in zip(long[2:], own[2:], strict=True):
        assert_close(found, expected)
