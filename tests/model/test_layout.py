"""Rows and slots: a layout loses nothing, in either direction, and passes gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ModelError
from cutlayer.model.lora import RowLayout, Slot

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
