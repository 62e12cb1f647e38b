"""Rows, and the layers that read them."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from cutlayer.errors import ModelError, UnsupportedModelError
from cutlayer.model.described import AdapterSpec
from cutlayer.model.lora import (
    MOST_GROUPS,
    BankRows,
    Draws,
    LoraLinear,
    LoraPatches,
    RowGroups,
    RowLayout,
    RowLinear,
    Slot,
    add_low_rank,
    by_device,
    row_groups,
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
    rows, base = BankRows(), nn.Linear(4, 6).double()
    layer = LoraLinear(base, "layer", SPEC, rows)
    x = normal(sum(sizes), tokens, 4)
    values = {slot.name: normal(len(sizes), *slot.shape, seed=2) for slot in layer.slots}
    a, b = values["layer.lora_A"], values["layer.lora_B"]
    expected = torch.stack(
        [base(x[n]) + 1.5 * x[n] @ a[own].T @ b[own].T for n, own in enumerate(owners(sizes))]
    )
    if flat:  # as blocks that merge batch and token
        x, expected = x.flatten(0, 1), expected.flatten(0, 1)
    with rows.using(values, sizes):
        torch.testing.assert_close(layer(x), expected, **TOLERANCE)


# float32 sums of at most 12 terms of size 1 to 10
SINGLE = {"rtol": 1e-5, "atol": 1e-5}


@given(sizes=SIZES, inputs=st.integers(1, 9), outputs=st.integers(1, 9))
def test_products_by_device_are_each_devices_own_and_so_are_their_gradients(
    sizes: list[int], inputs: int, outputs: int
) -> None:
    """In float32 by torch's grouped product, in float64, which it does not take, by a padded one;
    of widths that fill no 16 bytes too."""
    for dtype, tolerance in ((torch.float32, SINGLE), (torch.float64, TOLERANCE)):
        x = normal(sum(sizes), inputs).to(dtype).requires_grad_()
        weight = normal(len(sizes), outputs, inputs, seed=2).to(dtype).requires_grad_()
        pieces = zip(torch.split(x, sizes), weight, strict=True)
        expected = torch.cat([part @ own.T for part, own in pieces])
        found = by_device(x, weight, RowGroups(tuple(sizes), x.device))
        torch.testing.assert_close(found, expected, **tolerance)
        # a sum's gradient is one value at every place, not a tensor of its own
        for own, alone in zip(
            torch.autograd.grad(found.sum(), (x, weight)),
            torch.autograd.grad(expected.sum(), (x, weight)),
            strict=True,
        ):
            torch.testing.assert_close(own, alone, **tolerance)


def test_more_devices_than_one_grouped_product_takes_are_several() -> None:
    sizes = [1, 2] * MOST_GROUPS
    x, weight = normal(sum(sizes), 4).float(), normal(len(sizes), 4, 4, seed=2).float()
    found = by_device(x, weight, RowGroups(tuple(sizes), x.device))
    expected = torch.einsum("ri,roi->ro", x, weight[owners(sizes)])
    torch.testing.assert_close(found, expected, **SINGLE)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_unequal_devices_have_the_bits_of_each_alone(scale: float) -> None:
    """Of a scale that is a power of two, as by default; any other rounds once more."""
    sizes = [5, 10, 15]
    x, base = normal(30, 24).float(), normal(30, 24, seed=1).float()
    a, b = normal(3, 4, 24, seed=2).float(), normal(3, 24, 4, seed=3).float()
    together = add_low_rank(base, x, a, b, scale, RowGroups(tuple(sizes), x.device))
    alone = [
        add_low_rank(*part, own_a[None], own_b[None], scale, RowGroups((len(part[0]),), x.device))
        for *part, own_a, own_b in zip(
            torch.split(base, sizes), torch.split(x, sizes), a, b, strict=True
        )
    ]
    assert torch.equal(together, torch.cat(alone))


def test_what_a_pass_knows_of_its_rows_is_made_once() -> None:
    rows = BankRows()
    with rows.using({}, [2, 1]):
        assert rows.groups(torch.zeros(6, 4)) is rows.groups(torch.zeros(6, 8))
        assert rows.groups(torch.zeros(6, 4)).ends.tolist() == [4, 6]
        assert rows.groups(torch.zeros(3, 4)).ends.tolist() == [2, 3]


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
    assert row_groups(torch.zeros(6, 1), [2, 1]).counts == (4, 2)
    with pytest.raises(UnsupportedModelError, match="7 rows for 3 samples"):
        row_groups(torch.zeros(7, 1), [2, 1])


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


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    tokens=st.integers(1, 5),
    more=st.integers(0, 3),
)
def test_what_is_dropped_of_a_sample_is_its_own(sizes: list[int], tokens: int, more: int) -> None:
    """Whoever shares its pass, and whatever padding follows it."""
    keys = tuple(f"sample {n}" for n in range(sum(sizes)))
    together = Draws(keys).kept("layer", (tokens + more, 7), 0.4)
    for n, key in enumerate(keys):
        (alone,) = Draws((key,)).kept("layer", (tokens, 7), 0.4)
        assert torch.equal(together[n, :tokens], alone)
    assert not torch.equal(together, Draws(keys).kept("other", (tokens + more, 7), 0.4)) or (
        together.numel() < 100
    )


def test_as_much_is_dropped_as_is_said() -> None:
    kept = Draws(tuple("abcd")).kept("layer", (50, 500), 0.3)
    assert kept.dtype is torch.bool and kept.shape == (4, 50, 500)
    # 100,000 draws: five deviations of sqrt(0.3 * 0.7 / 100,000)
    assert abs(kept.double().mean().item() - 0.7) < 5 * 1.5e-3


def test_an_adapter_sees_what_is_kept_and_the_frozen_layer_all() -> None:
    rows, base, spec = BankRows(), nn.Linear(4, 6).double(), replace(SPEC, dropout=0.25)
    layer, draws = LoraLinear(base, "layer", spec, rows), Draws(("one", "two", "three"))
    values = RowLayout(layer.slots).split(normal(2, RowLayout(layer.slots).parameters))
    x = normal(3, 5, 4, seed=1)
    with rows.using(values, [2, 1], draws):
        found = layer(x)
    with rows.using(values, [2, 1]):
        whole = layer(x)
    seen = x * draws.kept("layer", (5, 4), 0.25) / 0.75
    a, b = (values[f"layer.{name}"] for name in ("lora_A", "lora_B"))
    low = torch.einsum("sti,sri->str", seen, a[owners([2, 1])])
    more = torch.einsum("str,sor->sto", low, b[owners([2, 1])])
    torch.testing.assert_close(found, base(x) + 1.5 * more, **TOLERANCE)
    assert not torch.allclose(found, whole)
