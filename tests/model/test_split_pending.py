"""Every way to hold gives the gradient of keeping everything, and holds what it says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cutlayer.errors import ModelError
from cutlayer.model.described import AdapterSpec
from cutlayer.model.load import load_device_part
from cutlayer.model.placement import Placement
from cutlayer.model.split import (
    DevicePart,
    Pending,
    SavedBytes,
    device_forward,
    measure_micro_batch,
)
from cutlayer.spec import ActivationPolicy, Base, Task
from examples import at_most
from model.architectures import (
    ARCHITECTURES,
    BLOCKS,
    CLASSES,
    LENGTHS,
    WIDTH,
    batches,
    image_batch,
    save_model,
    text_batch,
)
from model.runs import full_spec, gradient_of, trained_row

CUT = BLOCKS - 1
TOKENS = 5  # of a 16 px image in patches of 8 px, with the class token
GROUPS = ((4,), (2, 2), (1, 3))  # one device, equal ones (a batched product), unequal ones


@dataclass(frozen=True)
class Case:
    task: Task
    part: DevicePart


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    task, model_type = request.param
    path = save_model(tmp_path_factory.mktemp("model"), model_type, task)
    return Case(task, load_device_part(path, task, CUT, full_spec(task), classes=CLASSES))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> DevicePart:
    """A ViT without an adapter on its patches: nothing before the first block is trained."""
    path = save_model(tmp_path_factory.mktemp("model"), "vit", "image-classification")
    return _vit(path)


def _vit(path: Path, base: Base = Base.FLOAT32) -> DevicePart:
    spec = AdapterSpec(rank=2, alpha=4.0)
    placement = Placement(base=base)
    return load_device_part(
        path, "image-classification", CUT, spec, classes=CLASSES, placement=placement
    )


def _leaf(part: DevicePart, devices: int = 1) -> Tensor:
    return torch.stack([trained_row(part, seed) for seed in range(devices)]).requires_grad_()


def _noise(shape: Sequence[int]) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(6))


def _held_gradient(
    part: DevicePart,
    sizes: Sequence[int],
    inputs: Mapping[str, Tensor],
    activation_memory: ActivationPolicy,
) -> tuple[Tensor, Tensor]:
    """The activation, and the rows' gradient for a noise that comes back for it."""
    rows = _leaf(part, len(sizes))
    pending = device_forward(part, rows, sizes, inputs, activation_memory)
    activation = pending.activation
    pending.backward(_noise(pending.shape))
    return activation, gradient_of(rows)


def test_every_holding_gives_the_gradient_of_autograd_to_the_bit(case: Case) -> None:
    for inputs, _ in batches(case.task):
        for sizes in GROUPS:
            rows = _leaf(case.part, len(sizes))
            expected = case.part.forward(rows, sizes, inputs)
            torch.autograd.backward(expected, _noise(expected.shape))
            for activation_memory in ActivationPolicy:
                activation, gradient = _held_gradient(case.part, sizes, inputs, activation_memory)
                assert torch.equal(activation, expected)
                assert torch.equal(gradient, gradient_of(rows)), (activation_memory, sizes)
    assert gradient_of(rows).any(dim=1).all()


def test_it_is_so_where_the_first_block_is_the_first_that_is_trained(vit: DevicePart) -> None:
    kept = _held_gradient(vit, [1, 3], image_batch(), ActivationPolicy.KEEP)[1]
    for activation_memory in ActivationPolicy:
        assert torch.equal(_held_gradient(vit, [1, 3], image_batch(), activation_memory)[1], kept)


def test_it_is_so_with_a_base_in_half_precision(tmp_path: Path) -> None:
    path = save_model(tmp_path, "vit", "image-classification")
    half = _vit(path, Base.BFLOAT16)
    activation, kept = _held_gradient(half, [4], image_batch(), ActivationPolicy.KEEP)
    assert activation.dtype == kept.dtype == torch.float32
    for activation_memory in ActivationPolicy:
        assert torch.equal(_held_gradient(half, [4], image_batch(), activation_memory)[1], kept)
    full = _held_gradient(_vit(path), [4], image_batch(), ActivationPolicy.KEEP)[1]
    # bfloat16 rounds by 2^-9 relative. A path through a block and back has about twelve rounded
    # results each way (two norms, six products and as many adapters', softmax, GELU, two sums, in
    # parallel in part), 2 blocks here: 48 roundings, which add up to 48 * 2^-9 = 0.094 if all
    # agree; drawn at random they make sqrt(48) * 2^-9 = 0.014
    assert torch.linalg.norm(kept - full) < 48 * 2**-9 * torch.linalg.norm(full)
    assert not torch.equal(kept, full)


def _micro(inputs: Mapping[str, Tensor], begin: int, end: int) -> dict[str, Tensor]:
    return {name: value[begin:end] for name, value in inputs.items()}


def _in_micro_batches(
    part: DevicePart,
    inputs: Mapping[str, Tensor],
    gradient: Tensor,
    bounds: Sequence[int],
    in_flight: int,
    activation_memory: ActivationPolicy,
) -> Tensor:
    """The gradient of one device's mini-batch that goes in pieces, some of them pending at once."""
    rows = _leaf(part)
    pending: list[tuple[Pending, Tensor]] = []
    for begin, end in pairwise(bounds):
        micro = device_forward(
            part, rows, [end - begin], _micro(inputs, begin, end), activation_memory
        )
        pending.append((micro, gradient[begin:end]))
        if len(pending) == in_flight:
            first, own = pending.pop(0)
            first.backward(own)
    for micro, own in pending:
        micro.backward(own)
    return gradient_of(rows)


@at_most(15)
@given(
    cuts=st.sets(st.integers(1, 7)),
    in_flight=st.integers(1, 8),
    activation_memory=st.sampled_from(ActivationPolicy),
)
def test_micro_batches_add_up_to_the_mini_batch(
    vit: DevicePart, cuts: set[int], in_flight: int, activation_memory: ActivationPolicy
) -> None:
    inputs = image_batch(samples=8)
    gradient = _noise((8, TOKENS, WIDTH))
    whole = _in_micro_batches(vit, inputs, gradient, (0, 8), 1, ActivationPolicy.KEEP)
    bounds = (0, *sorted(cuts), 8)
    parts = _in_micro_batches(vit, inputs, gradient, bounds, in_flight, activation_memory)
    # an entry sums 8 * 5 products in another order: at most 40 roundings of 2^-24 of the sum of
    # magnitudes, in practice about sqrt(40) of them: 4e-7 of the gradient's norm
    assert torch.linalg.norm(parts - whole) <= 1e-6 * torch.linalg.norm(whole)


def test_padded_micro_batches_add_up_too(tmp_path: Path) -> None:
    path = save_model(tmp_path, "bert", "text-classification")
    spec = AdapterSpec(rank=2, alpha=4.0)
    part = load_device_part(path, "text-classification", CUT, spec, classes=CLASSES)
    inputs = text_batch(LENGTHS)
    real = inputs["attention_mask"].unsqueeze(2)
    gradient = _noise((4, 7, WIDTH)) * real  # padding has no part in a loss
    whole = _in_micro_batches(part, inputs, gradient, (0, 4), 1, ActivationPolicy.KEEP)
    for activation_memory in ActivationPolicy:
        parts = _in_micro_batches(part, inputs, gradient, (0, 1, 3, 4), 2, activation_memory)
        # as above
        assert torch.linalg.norm(parts - whole) <= 1e-6 * torch.linalg.norm(whole)


def test_what_waits_and_what_peaks(vit: DevicePart) -> None:
    inputs = image_batch()
    held = {
        activation_memory: measure_micro_batch(
            vit, _leaf(vit).detach(), [4], inputs, activation_memory
        )
        for activation_memory in ActivationPolicy
    }
    keep, checkpoint = held[ActivationPolicy.KEEP], held[ActivationPolicy.CHECKPOINT]
    recompute = held[ActivationPolicy.RECOMPUTE]
    assert checkpoint.waiting == CUT * 4 * TOKENS * WIDTH * 4  # the blocks' inputs in float32
    assert recompute.waiting == 0
    assert keep.waiting == keep.peak == recompute.peak
    assert checkpoint.waiting < checkpoint.peak < keep.peak


@pytest.mark.parametrize("activation_memory", list(ActivationPolicy))
def test_the_peak_of_several_in_flight_is_predicted(
    vit: DevicePart, activation_memory: ActivationPolicy
) -> None:
    inputs = image_batch()
    one = measure_micro_batch(vit, _leaf(vit), [4], inputs, activation_memory)
    rows = _leaf(vit)
    with SavedBytes([*vit.adapted.tensors, rows, *inputs.values()]) as saved:
        pending = [device_forward(vit, rows, [4], inputs, activation_memory) for _ in range(3)]
        for micro in pending:
            micro.backward(torch.zeros(micro.shape))
    assert saved.bytes == 0
    assert saved.peak == one.in_flight(3)


@pytest.mark.parametrize("activation_memory", list(ActivationPolicy))
def test_measuring_leaves_no_trace(vit: DevicePart, activation_memory: ActivationPolicy) -> None:
    rows = _leaf(vit)
    before = rows.detach().clone()
    measure_micro_batch(vit, rows, [4], image_batch(), activation_memory)
    assert rows.grad is None
    assert torch.equal(rows, before)


@pytest.mark.parametrize("activation_memory", list(ActivationPolicy))
def test_an_activation_is_free_of_the_graph_and_can_be_released(
    vit: DevicePart, activation_memory: ActivationPolicy
) -> None:
    rows = _leaf(vit)
    pending = device_forward(vit, rows, [4], image_batch(), activation_memory)
    assert not pending.activation.requires_grad
    assert pending.shape == pending.activation.shape == (4, TOKENS, WIDTH)
    pending.release()
    with pytest.raises(RuntimeError, match="was released"):
        _ = pending.activation
    pending.backward(_noise(pending.shape))
    assert torch.equal(
        gradient_of(rows), _held_gradient(vit, [4], image_batch(), activation_memory)[1]
    )


@pytest.mark.parametrize("activation_memory", list(ActivationPolicy))
def test_backward_comes_once(vit: DevicePart, activation_memory: ActivationPolicy) -> None:
    pending = device_forward(vit, _leaf(vit), [4], image_batch(), activation_memory)
    pending.backward(_noise(pending.shape))
    with pytest.raises(RuntimeError, match="has had its backward"):
        pending.backward(_noise(pending.shape))


@pytest.mark.parametrize("activation_memory", list(ActivationPolicy))
def test_rows_that_change_in_between_are_noticed(
    vit: DevicePart, activation_memory: ActivationPolicy
) -> None:
    rows = _leaf(vit)
    pending = device_forward(vit, rows, [4], image_batch(), activation_memory)
    with torch.no_grad():
        rows.add_(1.0)
    with pytest.raises(RuntimeError, match=r"in place|inplace"):
        pending.backward(_noise(pending.shape))


def test_inputs_that_change_before_they_are_read_again_are_noticed(vit: DevicePart) -> None:
    inputs = image_batch()
    pending = device_forward(vit, _leaf(vit), [4], inputs, ActivationPolicy.RECOMPUTE)
    inputs["pixel_values"].add_(1.0)
    with pytest.raises(RuntimeError, match="changed in place"):
        pending.backward(_noise(pending.shape))


def test_rows_must_collect_a_gradient(vit: DevicePart) -> None:
    for rows in (_leaf(vit).detach(), 2 * _leaf(vit)):
        with pytest.raises(ModelError, match="no leaf that requires a gradient"):
            device_forward(vit, rows, [4], image_batch(), ActivationPolicy.KEEP)


@pytest.mark.parametrize("activation_memory", list(ActivationPolicy))
def test_a_part_is_as_before_after_a_refused_forward(
    vit: DevicePart, activation_memory: ActivationPolicy
) -> None:
    with pytest.raises(ModelError, match="do not divide 4 samples"):
        device_forward(vit, _leaf(vit), [3], image_batch(), activation_memory)
    with pytest.raises(ModelError, match="outside a forward pass"):
        vit.adapted.model.get_submodule("vit.layers.0.attention.q_proj")(torch.zeros(1, WIDTH))
    _held_gradient(vit, [4], image_batch(), ActivationPolicy.KEEP)
