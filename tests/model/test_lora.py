"""Rows, and the layers that read them."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from cutlayer.errors import ModelError, UnsupportedModelError
from cutlayer.model.described import AdapterSpec
from cutlayer.model.lora import (
    BankRows,
    LoraLinear,
    LoraPatches,
    RowLayout,
    RowLinear,
    Slot,
    add_low_rank,
    rows_of,
)

SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=5)
# float64 sums of at most 12 terms of size 1 to 10 round by about 1e-14
TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}
SPEC = AdapterSpec(rank=2, alpha=3.0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def owners(sizes: Sequence[int]) -> list[int]:
    """The device of each sample."""
    return [device for device, size in enumerate(sizes) for _ in range(size)]


@given(sizes=SIZES, tokens=st.integers(1, 3), flat=st.booleans())
def test_low_rank_is_each_sample_with_its_devices_matrices(
    sizes: list[int], tokens: int, flat: bool
) -> None:
    batch, group = sum(sizes), len(sizes)
    x, base = normal(batch, tokens, 4), normal(batch, tokens, 6, seed=1)
    a, b = normal(group, 2, 4, seed=2), normal(group, 6, 2, seed=3)
    expected = torch.stack(
        [base[n] + 1.5 * x[n] @ a[own].T @ b[own].T for n, own in enumerate(owners(sizes))]
    )
    if flat:  # as blocks that merge batch and token
        x, base, expected = x.flatten(0, 1), base.flatten(0, 1), expected.flatten(0, 1)
    torch.testing.assert_close(add_low_rank(base, x, a, b, 1.5, sizes), expected, **TOLERANCE)


@given(sizes=SIZES, tokens=st.integers(0, 3), bias=st.booleans())
def test_head_is_each_sample_with_its_devices_weight(
    sizes: list[int], tokens: int, bias: bool
) -> None:
    rows = BankRows()
    head = RowLinear(nn.Linear(4, 3, bias=bias), "classifier", rows)
    x = normal(sum(sizes), *([tokens] if tokens else []), 4)
    values = {slot.name: normal(len(sizes), *slot.shape, seed=4) for slot in head.slots}
    with rows.using(values, sizes):
        found = head(x)
    expected = torch.stack(
        [
            functional.linear(
                x[n],
                values["classifier.weight"][own],
                values["classifier.bias"][own] if bias else None,
            )
            for n, own in enumerate(owners(sizes))
        ]
    )
    torch.testing.assert_close(found, expected, **TOLERANCE)


@given(sizes=SIZES, stride=st.sampled_from([2, 3]), padding=st.integers(0, 1))
def test_patches_are_a_convolution_with_the_product(
    sizes: list[int], stride: int, padding: int
) -> None:
    rows = BankRows()
    base = nn.Conv2d(2, 5, 3, stride=stride, padding=padding).double()
    layer = LoraPatches(base, "projection", SPEC, rows)
    pixels = normal(sum(sizes), 2, 7, 7)
    values = {slot.name: normal(len(sizes), *slot.shape, seed=5) for slot in layer.slots}
    with rows.using(values, sizes):
        found = layer(pixels)
    a, b = values["projection.lora_A"], values["projection.lora_B"]
    expected = torch.cat(
        [
            base(pixels[n : n + 1])
            + 1.5
            * functional.conv2d(
                functional.conv2d(pixels[n : n + 1], a[own], stride=stride, padding=padding), b[own]
            )
            for n, own in enumerate(owners(sizes))
        ]
    )
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_both_kinds_of_linear_layer_have_the_same_slots() -> None:
    linear, transposed = nn.Linear(4, 6), Conv1D(6, 4)
    for layer in (linear, transposed):
        slots = LoraLinear(layer, "layer", SPEC, BankRows()).slots
        assert [(slot.name, slot.shape) for slot in slots] == [
            ("layer.lora_A", (2, 4)),
            ("layer.lora_B", (6, 2)),
        ]


@pytest.mark.parametrize("base", [nn.Linear(4, 6), Conv1D(6, 4)], ids=["linear", "conv1d"])
def test_an_adapter_of_zero_leaves_the_layer_exactly(base: nn.Linear | Conv1D) -> None:
    rows = BankRows()
    layer = LoraLinear(base, "layer", SPEC, rows)
    row = torch.cat([normal(8).float(), torch.zeros(12)]).unsqueeze(0)
    x = normal(3, 2, 4).float()
    with rows.using(RowLayout(layer.slots).split(row), [3]):
        assert torch.equal(layer(x), base(x))


def test_a_layer_works_in_a_pass_only() -> None:
    layer = LoraLinear(nn.Linear(4, 6), "layer", SPEC, BankRows())
    with pytest.raises(ModelError, match="outside a forward pass"):
        layer(torch.zeros(1, 4))


def test_rows_that_mix_samples_are_refused() -> None:
    assert rows_of(torch.zeros(6, 1), [2, 1]) == [4, 2]
    with pytest.raises(UnsupportedModelError, match="7 rows for 3 samples"):
        rows_of(torch.zeros(7, 1), [2, 1])


def test_a_convolution_in_groups_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="not a plain convolution"):
        LoraPatches(nn.Conv2d(2, 4, 3, groups=2), "projection", SPEC, BankRows())


@pytest.mark.parametrize(
    ("rank", "alpha", "targets", "message"),
    [
        (0, 1.0, "all", "rank is 0"),
        (2, 0.0, "all", "alpha is 0.0"),
        (2, float("inf"), "all", "alpha is inf"),
        (2, 1.0, (), "no targets"),
    ],
)
def test_impossible_specs_are_refused(
    rank: int, alpha: float, targets: tuple[str, ...] | str, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        AdapterSpec(rank, alpha, targets)


Shapes = list[tuple[int, ...]]
SHAPES = st.lists(
    st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), min_size=1, max_size=6
)


def layout_of(shapes: Shapes) -> RowLayout:
    return RowLayout(tuple(Slot(f"layer.{n}", shape) for n, shape in enumerate(shapes)))


@given(shapes=SHAPES, group=st.integers(1, 4))
def test_split_and_join_are_inverse(shapes: Shapes, group: int) -> None:
    layout = layout_of(shapes)
    rows = torch.arange(group * layout.parameters, dtype=torch.float32).view(group, -1)
    split = layout.split(rows)
    assert {name: value.shape[1:] for name, value in split.items()} == {
        slot.name: slot.shape for slot in layout.slots
    }
    for number, row in enumerate(rows):
        assert torch.equal(layout.join({name: v[number] for name, v in split.items()}), row)
        assert torch.equal(layout.join(layout.named(row)), row)


@given(shapes=SHAPES, group=st.integers(1, 4))
def test_split_passes_each_slot_its_gradient(shapes: Shapes, group: int) -> None:
    layout = layout_of(shapes)
    rows = torch.zeros(group, layout.parameters, requires_grad=True)
    for number, value in enumerate(layout.split(rows).values()):
        (value.sum() * number).backward(retain_graph=True)
    assert rows.grad is not None
    for number, gradient in enumerate(layout.split(rows.grad).values()):
        assert bool((gradient == number).all())


def test_backward_of_split_is_one_concatenation() -> None:
    layout = RowLayout(tuple(Slot(str(n), (3,)) for n in range(5)))
    rows = torch.zeros(2, 15, requires_grad=True)
    nodes = {value.grad_fn.next_functions[0][0] for value in layout.split(rows).values()}
    assert [type(node).__name__ for node in nodes] == ["SplitWithSizesBackward0"]


def test_join_ignores_slots_of_the_other_side_and_widens() -> None:
    layout = RowLayout((Slot("a", (2,)),))
    row = layout.join({"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.zeros(9)})
    assert row.dtype == torch.float32
    assert row.tolist() == [1.0, 1.0]


def test_an_empty_layout_has_an_empty_row() -> None:
    assert RowLayout(()).join({}).shape == (0,)


def test_misfits_are_named() -> None:
    layout = RowLayout((Slot("vit.layers.0.q.lora_A", (2, 3)),))
    with pytest.raises(ModelError, match=r"no values for vit\.layers\.0\.q\.lora_A"):
        layout.join({})
    with pytest.raises(ModelError, match=r"shape \(3, 2\) where this model needs \(2, 3\)"):
        layout.join({"vit.layers.0.q.lora_A": torch.zeros(3, 2)})
    with pytest.raises(ModelError, match="row of 5 values does not fit a layout of 6"):
        layout.split(torch.zeros(1, 5))
    with pytest.raises(ModelError, match="row of 7 values does not fit a layout of 6"):
        layout.named(torch.zeros(7))
