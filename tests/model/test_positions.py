"""Positions at the size of a job's images: the same to the bit, and fewer."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cutlayer.model.describe import describe
from cutlayer.model.described import AdapterSpec
from cutlayer.model.load import device_tensors, load_device_part, load_server_part, load_whole
from cutlayer.model.part_file import SMALL_FILES
from cutlayer.model.placement import Placement
from cutlayer.spec import Base, Task, Trained
from model.architectures import BLOCKS, CLASSES, image_batch, save_model
from model.runs import full_spec, run_parts, run_whole, trained_row

IMAGES: Task = "image-classification"
SPEC = full_spec(IMAGES)
# of images of 48 pixels, patches of 8
KINDS = ("deit", "dinov2", "dinov2_with_registers", "ijepa", "vit", "vit_msn")
TRAINED_ON, SIDE, ROWS = 48, 16, 2 * 2
CUT = 2


def model_of(kind: str, folder: Path) -> Path:
    return save_model(folder, kind, IMAGES, image_size=TRAINED_ON)


def rows_of(tensors: dict[str, torch.Tensor]) -> int:
    (found,) = (each for name, each in tensors.items() if name.endswith("position_embeddings"))
    return found.shape[1]


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_are_those_of_positions_that_the_model_interpolates(
    kind: str, tmp_path: Path
) -> None:
    folder, batch = model_of(kind, tmp_path), image_batch(side=SIDE)
    whole = load_whole(folder, IMAGES, SPEC, classes=CLASSES)
    row = trained_row(whole)
    named = {**whole.adapted.layout.named(row)}
    logits, gradient = run_whole(whole, row, batch, None)
    sized = {"classes": CLASSES, "image_size": SIDE}
    device = load_device_part(folder, IMAGES, CUT, SPEC, **sized)
    server = load_server_part(folder, IMAGES, CUT, SPEC, **sized)
    found, found_gradient = run_parts(device, server, named, batch, None)
    assert torch.equal(found, logits)
    assert all(torch.equal(found_gradient[name], gradient[name]) for name in gradient)
    assert rows_of(dict(device.adapted.frozen())) <= ROWS + 2


@pytest.mark.parametrize("base", ["float32", "bfloat16", "nf4"])
def test_a_folder_of_the_parts_own_weights_gives_the_same_part(base: str, tmp_path: Path) -> None:
    folder = model_of("dinov2", tmp_path / "model")
    asked = {
        "classes": CLASSES,
        "image_size": SIDE,
        "placement": Placement(base=Base(base)),
    }
    tensors = device_tensors(folder, IMAGES, CUT, SPEC, **asked)
    own = tmp_path / "part"
    own.mkdir()
    for name in SMALL_FILES:
        if (folder / name).is_file():
            shutil.copy(folder / name, own)
    save_file(
        {name: value.contiguous() for name, value in tensors.items()}, own / "model.safetensors"
    )
    again = device_tensors(own, IMAGES, CUT, SPEC, **asked)
    assert rows_of(tensors) == 1 + ROWS
    assert tensors.keys() == again.keys()
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)
    batch = image_batch(side=SIDE)
    parts = [load_device_part(each, IMAGES, CUT, SPEC, **asked) for each in (folder, own)]
    row = trained_row(parts[0]).unsqueeze(0)
    made = [part.forward(row, [len(batch["pixel_values"])], batch) for part in parts]
    assert torch.equal(*made)


@pytest.mark.parametrize("side", [None, TRAINED_ON, 56])
def test_images_that_are_not_smaller_leave_all_positions(side: int | None, tmp_path: Path) -> None:
    folder = model_of("dinov2", tmp_path)
    tensors = device_tensors(folder, IMAGES, CUT, SPEC, classes=CLASSES, image_size=side)
    assert rows_of(tensors) == 1 + (TRAINED_ON // 8) ** 2


@pytest.mark.parametrize("trained", Trained)
def test_a_plan_counts_what_a_part_holds(trained: Trained, tmp_path: Path) -> None:
    folder = model_of("vit", tmp_path)
    spec = AdapterSpec(rank=2, alpha=4.0, head=True)
    part = load_device_part(
        folder, IMAGES, CUT, spec, classes=CLASSES, image_size=SIDE, trained=trained
    )
    model = describe(folder, IMAGES, spec, classes=CLASSES, image_size=SIDE)
    held = sum(weight.numel() for weight in part.adapted.model.parameters())
    frozen = held if trained is Trained.ADAPTERS else part.adapted.layout.parameters
    assert model.blocks == BLOCKS
    assert model.device_parameters(CUT) == frozen
