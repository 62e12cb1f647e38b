"""Bytes held for backward, where they can be counted by hand."""

from pathlib import Path

import torch
from torch.nn import functional

from cutlayer.model.described import AdapterSpec
from cutlayer.model.load import load_device_part
from cutlayer.model.split import SavedBytes
from model.architectures import BLOCKS, image_batch, save_model


def test_a_product_holds_what_its_gradients_need() -> None:
    x = torch.zeros(4, 6, requires_grad=True)
    weight = torch.zeros(6, 5)
    with SavedBytes() as saved:
        y = x @ weight
    assert saved.bytes == weight.nbytes  # the weight needs no gradient, so x is not needed
    with SavedBytes(exclude=[weight]) as saved:
        y = x @ weight
    assert saved.bytes == 0
    assert y.requires_grad


def test_a_storage_counts_once_and_in_full() -> None:
    x = torch.zeros(4, 6, requires_grad=True)
    with SavedBytes() as saved:
        views = [x[:2].exp(), x[2:].sin(), x.T.cos()]
    # exp holds its result, sin and cos their (shared) input
    assert saved.bytes == 2 * 6 * 4 + x.nbytes
    assert len(views) == 3


def test_what_is_dropped_during_the_forward_is_not_held() -> None:
    x = torch.zeros(1000, requires_grad=True)
    with SavedBytes() as saved:
        x.exp()
        assert saved.bytes == 0
        y = x.exp()
        assert saved.bytes == x.nbytes
    del y
    assert saved.bytes == x.nbytes  # as it was when the block ended


def test_gradients_are_the_same_inside() -> None:
    x = torch.linspace(-2, 2, 7, requires_grad=True)
    with SavedBytes():
        y = functional.gelu(x.exp() * x).sum()
    y.backward()
    plain = x.detach().clone().requires_grad_()
    functional.gelu(plain.exp() * plain).sum().backward()
    assert x.grad is not None and plain.grad is not None
    assert torch.equal(x.grad, plain.grad)


def test_a_device_holds_more_at_a_later_cut_and_nothing_without_gradients(tmp_path: Path) -> None:
    path = save_model(tmp_path, "vit", "image-classification")
    held = []
    for cut in range(1, BLOCKS):
        spec = AdapterSpec(rank=2, alpha=4.0)
        part = load_device_part(path, "image-classification", cut, spec, classes=2)
        rows = part.adapted.initial_row(0).unsqueeze(0).requires_grad_()
        with SavedBytes([*part.adapted.tensors, rows]) as saved:
            activation = part.forward(rows, [4], image_batch())
        held.append(saved.bytes)
        with SavedBytes([*part.adapted.tensors, rows]) as saved, torch.no_grad():
            part.forward(rows, [4], image_batch())
        assert saved.bytes == 0
        assert held[-1] > activation.nbytes
    assert held == sorted(set(held))


def test_the_peak_is_that_of_the_whole_block() -> None:
    x = torch.zeros(1000, requires_grad=True)
    with SavedBytes() as saved:
        first, second = x.exp(), x.exp()
        assert saved.peak == 2 * x.nbytes
        first.sum().backward()
        assert saved.bytes == x.nbytes
        second.sum().backward()
        x.exp().sum().backward()
    assert saved.bytes == 0
    assert saved.peak == 2 * x.nbytes


def test_the_peak_counts_what_is_run_again_in_backward(tmp_path: Path) -> None:
    path = save_model(tmp_path, "vit", "image-classification")
    spec = AdapterSpec(rank=2, alpha=4.0)
    part = load_device_part(path, "image-classification", 2, spec, classes=2)
    rows = part.adapted.initial_row(0).unsqueeze(0).requires_grad_()
    with SavedBytes([*part.adapted.tensors, rows]) as saved:
        activation = part.forward(rows, [4], image_batch(), checkpoint=True)
        waiting = saved.bytes
        activation.sum().backward()
    assert saved.bytes == 0
    assert saved.peak > waiting > 0
